// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/detail/sampled_gate.hpp"

namespace kokomoe::detail {

/// Name and texts of a one-hot gate, and whether its gradient is ReinMax's.
struct OneHotGateRule {
  const char* name;
  const char* summary;
  const char* paper;
  bool reinmax;
};

RouterInfo one_hot_gate_info(const OneHotGateRule& rule);

/// The sampled gate of objective B, E_{D~p}[ f(E_D) ]: y = E_D(x), weight 1. Its gradients look at
/// every expert's output, so in training a token has E slots, expert e in slot t E + e with weight
/// 1 for D and 0 for the others: `scale` is one-hot in D, and so is `counted`. p = softmax over the
/// experts that the mask keeps; with g_i = <dL/dy, E_i(x)> less its mean over them
///   straight-through: dz = J(p)^T g
///   ReinMax: dz = 2 J(pi)^T g - 1/2 J(p)^T g,  pi = (softmax(z / temperature) + onehot_D) / 2
/// times grad_factor, where J(p) = diag(p) - p p^T. In evaluation a token has one slot: D = argmax.
/// arXiv 1308.3432, 2304.08612.
template <class T>
class OneHotGateRouter : public Router<T> {
 public:
  int max_slots(int tokens) const override { return tokens * this->place_.experts; }
  Routing<T> route_logits(const StepContext& ctx, const Matrix<const T>& z,
                          const Routing<T>* replay) const override;
  void logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                       const Routing<T>& routing, const RouterFeedback<T>& feedback,
                       const Matrix<T>& d_z) const override;
  EstimatorInfo estimator() const override;

 protected:
  OneHotGateRouter(const OneHotGateRule& rule, const RouterPlace& place,
                   const RouterOptions& options, ParameterStore<T>& store);

 private:
  DistanceMask mask_;
  double grad_factor_;
  double temperature_;
  bool sampling_;
  bool reinmax_;
};

}  // namespace kokomoe::detail
