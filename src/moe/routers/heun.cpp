// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/heun.hpp"

namespace kokomoe {

namespace {

constexpr detail::SampledGateRule rule{
    .name = "heun",
    .summary = "sampled experts; the router gradient by Heun's rule",
    .paper = "Liu et al. 2024 (GRIN), arXiv 2409.12136, appendix",
    .scale = {1.0 / 3, 0.375},
    .grad_factor = 2};

}  // namespace

template <class T>
RouterInfo HeunRouter<T>::info() {
  return detail::sampled_gate_info(rule);
}

template <class T>
HeunRouter<T>::HeunRouter(const RouterPlace& place, const RouterOptions& options,
                         ParameterStore<T>& store)
    : detail::SampledGateRouter<T>(rule, place, options, store) {}

template class HeunRouter<float>;
template class HeunRouter<double>;

}  // namespace kokomoe
