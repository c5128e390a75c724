// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/sparsemixer.hpp"

namespace kokomoe {

namespace {

constexpr detail::SampledGateRule rule{
    .name = "sparsemixer",
    .summary = "one sampled expert; the router gradient by the midpoint rule (v1)",
    .paper = "Liu, Gao, Chen 2023, arXiv 2310.00811",
    .scale = {0.5, 0.5, false, true},
    .grad_factor = 2,
    .mask_eps = 0.1,
    .output_gain = true};

}  // namespace

template <class T>
RouterInfo SparseMixerRouter<T>::info() {
  return detail::sampled_gate_info(rule);
}

template <class T>
SparseMixerRouter<T>::SparseMixerRouter(const RouterPlace& place, const RouterOptions& options,
                                       ParameterStore<T>& store)
    : detail::SampledGateRouter<T>(rule, place, options, store) {}

template class SparseMixerRouter<float>;
template class SparseMixerRouter<double>;

}  // namespace kokomoe
