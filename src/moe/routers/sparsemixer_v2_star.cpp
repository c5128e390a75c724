// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/sparsemixer_v2_star.hpp"

namespace kokomoe {

namespace {

constexpr detail::SampledGateRule rule{
    .name = "sparsemixer_v2_star",
    .summary = "sampled experts at temperature 2 by Heun's rule (derived in GRIN's appendix)",
    .paper = "Liu et al. 2024 (GRIN), arXiv 2409.12136, appendix",
    .scale = {1.0 / 3, 0.375, false, true},
    .grad_factor = 2,
    .mask_eps = 0.01,
    .temperature = 2,
    .unmasked_balance = true};

}  // namespace

template <class T>
RouterInfo SparseMixerV2StarRouter<T>::info() {
  return detail::sampled_gate_info(rule);
}

template <class T>
SparseMixerV2StarRouter<T>::SparseMixerV2StarRouter(const RouterPlace& place,
                                                    const RouterOptions& options,
                                                    ParameterStore<T>& store)
    : detail::SampledGateRouter<T>(rule, place, options, store) {}

template class SparseMixerV2StarRouter<float>;
template class SparseMixerV2StarRouter<double>;

}  // namespace kokomoe
