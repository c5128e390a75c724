// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/router_registry.hpp"

namespace kokomoe {

/// GShard (arXiv 2006.16668, section 2.2 and algorithm 1): the two most probable experts, weighted
/// by g_r = p_r / (p_1 + p_2). In training the second one runs with probability min(1, 2 g_2), else
/// it is marked `dropped`; evaluation and sampling = false always keep it. The load-balance loss
/// counts first choices only. With moe/capacity_factor the layer places all first choices of a
/// routing group before any second one.
template <class T>
class GShardRouter final : public Router<T> {
 public:
  static RouterInfo info();
  GShardRouter(const RouterPlace& place, const RouterOptions& options, ParameterStore<T>& store);

  int max_slots(int tokens) const override { return 2 * tokens; }
  Routing<T> route_logits(const StepContext& ctx, const Matrix<const T>& z,
                          const Routing<T>* replay) const override;
  void logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                       const Routing<T>& routing, const RouterFeedback<T>& feedback,
                       const Matrix<T>& d_z) const override;

 private:
  bool sampling_;
};

}  // namespace kokomoe
