// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/detail/sampled_gate.hpp"

namespace kokomoe {

/// SparseMixer v1 (Liu, Gao, Chen, arXiv 2310.00811): samples one expert from the masked softmax
/// and estimates the router gradient that conventional gates drop by the midpoint rule, switching
/// to the trapezoid when the sample is the argmax. See detail::SampledGateRouter.
///   s = 1 if D is the argmax or a fair coin says so, else 1/2; factor 2; mask_eps 0.1
///   the load-balance loss averages the masked p; the layer's output takes a learned gain
template <class T>
class SparseMixerRouter final : public detail::SampledGateRouter<T> {
 public:
  static RouterInfo info();
  SparseMixerRouter(const RouterPlace& place, const RouterOptions& options,
                    ParameterStore<T>& store);
};

}  // namespace kokomoe
