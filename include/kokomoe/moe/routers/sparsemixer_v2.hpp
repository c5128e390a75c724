// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/detail/sampled_gate.hpp"

namespace kokomoe {

/// SparseMixer v2 as published with GRIN (Liu et al., arXiv 2409.12136, and its code): a sampled
/// expert in each of k rounds. See detail::SampledGateRouter.
///   s = 1 if D is the round's argmax or with probability 1/4, else 1/3; factor 1; mask_eps 0.01
///   the load-balance loss averages the softmax without the mask; no output gain
template <class T>
class SparseMixerV2Router final : public detail::SampledGateRouter<T> {
 public:
  static RouterInfo info();
  SparseMixerV2Router(const RouterPlace& place, const RouterOptions& options,
                      ParameterStore<T>& store);
};

}  // namespace kokomoe
