// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/router_registry.hpp"

namespace kokomoe {

/// SparseMixer v1 (Liu, Gao, Chen, arXiv 2310.00811): samples one expert from the masked softmax and
/// estimates the router gradient that conventional gates drop by the midpoint rule, switching to
/// the trapezoid when the sample is the argmax.
///   mask: expert i is out when (m - z_i) / max(|z_i|, m) > 2 mask_eps, m the largest logit
///   training: D ~ p, weight s p_D with s = 1 if D is the argmax or a fair coin says so, else 1/2;
///   backward: dL/dp_D = grad_factor dL/dweight whatever s was, then the softmax Jacobian
///   evaluation: D = argmax, weight p_D
template <class T>
class SparseMixerRouter final : public Router<T> {
 public:
  static RouterInfo info();
  SparseMixerRouter(const RouterPlace& place, const RouterOptions& options, ParameterStore<T>& store);

  int max_slots(int tokens) const override { return tokens * this->place_.k; }
  Routing<T> route_logits(const StepContext& ctx, const Matrix<const T>& z,
                          const Routing<T>* replay) const override;
  void logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                       const Routing<T>& routing, const RouterFeedback<T>& feedback,
                       const Matrix<T>& d_z) const override;

 private:
  double mask_eps_;
  double grad_factor_;
  bool sampling_;
  bool argmax_exception_;
  bool sum_mask_;             ///< GRIN's form of the mask, m - z_i > 2 eps (|z_i| + |m|)
  bool probability_gradient_; ///< the expert receives p_D dL/dy instead of s p_D dL/dy
};

}  // namespace kokomoe
