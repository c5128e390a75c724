// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/reinmax.hpp"

namespace kokomoe {

namespace {

constexpr detail::OneHotGateRule rule{
    "reinmax",
    "one sampled expert with weight 1; ReinMax gradient (for study: trains all E)",
    "Liu et al. 2023, arXiv 2304.08612", true};

}  // namespace

template <class T>
RouterInfo ReinMaxRouter<T>::info() {
  return detail::one_hot_gate_info(rule);
}

template <class T>
ReinMaxRouter<T>::ReinMaxRouter(const RouterPlace& place, const RouterOptions& options,
                               ParameterStore<T>& store)
    : detail::OneHotGateRouter<T>(rule, place, options, store) {}

template class ReinMaxRouter<float>;
template class ReinMaxRouter<double>;

}  // namespace kokomoe
