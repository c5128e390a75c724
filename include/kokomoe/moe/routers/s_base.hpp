// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/router_registry.hpp"

namespace kokomoe {

/// Sinkhorn routing (S-BASE: Clark et al. 2022, arXiv 2202.01169, section 3.2). In training exp(z)
/// of a routing group of n tokens is scaled until each token has 1 / n of it and each expert 1 / E,
/// to within `tolerance` of that, or for `iterations`; the choice is the top k of the result,
/// without gradient. Evaluation, and a group of one token, takes the top k of z.
///
/// The weight is sigmoid(z) for k = 1; for k > 1 it is the softmax of z over the chosen experts
/// (softmax = "after") or over all ("before"). NaN takes no part in the scaling and is never chosen
/// while something else is left; an expert that underflows everywhere keeps its scale.
template <class T>
class SBaseRouter final : public Router<T> {
 public:
  static RouterInfo info();
  SBaseRouter(const RouterPlace& place, const RouterOptions& options, ParameterStore<T>& store);

  int max_slots(int tokens) const override { return tokens * this->place_.k; }
  Routing<T> route_logits(const StepContext& ctx, const Matrix<const T>& z,
                          const Routing<T>* replay) const override;
  void logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                       const Routing<T>& routing, const RouterFeedback<T>& feedback,
                       const Matrix<T>& d_z) const override;

 private:
  double tolerance_;
  int iterations_;
  bool before_;
};

}  // namespace kokomoe
