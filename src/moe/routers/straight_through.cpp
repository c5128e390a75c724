// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/straight_through.hpp"

namespace kokomoe {

namespace {

constexpr detail::OneHotGateRule rule{
    "straight_through",
    "one sampled expert with weight 1; straight-through gradient (for study: trains all E)",
    "Bengio et al. 2013, arXiv 1308.3432", false};

}  // namespace

template <class T>
RouterInfo StraightThroughRouter<T>::info() {
  return detail::one_hot_gate_info(rule);
}

template <class T>
StraightThroughRouter<T>::StraightThroughRouter(const RouterPlace& place,
                                                const RouterOptions& options,
                                                ParameterStore<T>& store)
    : detail::OneHotGateRouter<T>(rule, place, options, store) {}

template class StraightThroughRouter<float>;
template class StraightThroughRouter<double>;

}  // namespace kokomoe
