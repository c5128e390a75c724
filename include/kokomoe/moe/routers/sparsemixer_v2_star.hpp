// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/detail/sampled_gate.hpp"

namespace kokomoe {

/// SparseMixer v2 as GRIN's appendix derives it (Liu et al., arXiv 2409.12136): Heun's rule at
/// temperature 2. See detail::SampledGateRouter.
///   s = 1 if D is the round's argmax or with probability 5/8, else 1/3; factor 2; mask_eps 0.01
///   p = softmax(z / temperature) in draw, weight and Jacobian, which so gains 1 / temperature
///   the load-balance loss averages the softmax without the mask at temperature 1
template <class T>
class SparseMixerV2StarRouter final : public detail::SampledGateRouter<T> {
 public:
  static RouterInfo info();
  SparseMixerV2StarRouter(const RouterPlace& place, const RouterOptions& options,
                          ParameterStore<T>& store);
};

}  // namespace kokomoe
