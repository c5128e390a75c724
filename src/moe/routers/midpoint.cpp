// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/midpoint.hpp"

namespace kokomoe {

namespace {

constexpr detail::SampledGateRule rule{
    .name = "midpoint",
    .summary = "sampled experts; the router gradient by the midpoint rule",
    .paper = "Liu, Gao, Chen 2023, arXiv 2310.00811",
    .scale = {0.5, 0.5},
    .grad_factor = 2};

}  // namespace

template <class T>
RouterInfo MidpointRouter<T>::info() {
  return detail::sampled_gate_info(rule);
}

template <class T>
MidpointRouter<T>::MidpointRouter(const RouterPlace& place, const RouterOptions& options,
                                 ParameterStore<T>& store)
    : detail::SampledGateRouter<T>(rule, place, options, store) {}

template class MidpointRouter<float>;
template class MidpointRouter<double>;

}  // namespace kokomoe
