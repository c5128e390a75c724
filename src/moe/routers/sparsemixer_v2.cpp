// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/sparsemixer_v2.hpp"

namespace kokomoe {

namespace {

constexpr detail::SampledGateRule rule{
    .name = "sparsemixer_v2",
    .summary = "sampled experts, scaled by 1 or 1/3, gradient without a factor (GRIN, Phi-3.5-MoE)",
    .paper = "Liu et al. 2024 (GRIN), arXiv 2409.12136",
    .scale = {1.0 / 3, 0.75, false, true},
    .grad_factor = 1,
    .mask_eps = 0.01,
    .unmasked_balance = true};

}  // namespace

template <class T>
RouterInfo SparseMixerV2Router<T>::info() {
  return detail::sampled_gate_info(rule);
}

template <class T>
SparseMixerV2Router<T>::SparseMixerV2Router(const RouterPlace& place, const RouterOptions& options,
                                           ParameterStore<T>& store)
    : detail::SampledGateRouter<T>(rule, place, options, store) {}

template class SparseMixerV2Router<float>;
template class SparseMixerV2Router<double>;

}  // namespace kokomoe
