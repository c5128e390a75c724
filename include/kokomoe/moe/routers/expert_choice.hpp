// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/router_registry.hpp"

namespace kokomoe {

/// Expert choice (arXiv 2202.09368, section 3.2): S = softmax of z over the experts, and each
/// expert takes the C tokens of a routing group with its largest S, the earlier among equal ones; C
/// = expert_capacity(n, E, 1, moe/capacity_factor), with a factor of 2 where that is 0. A token has
/// 0 to E experts, weighted by S. The same in training and evaluation.
///
/// Slot t E + e is token t's for expert e, unused (E) where e did not take t: token order, at the
/// price of T E slots.
template <class T>
class ExpertChoiceRouter final : public Router<T> {
 public:
  static RouterInfo info();
  ExpertChoiceRouter(const RouterPlace& place, const RouterOptions& options,
                     ParameterStore<T>& store);

  int max_slots(int tokens) const override { return tokens * this->place_.experts; }
  Routing<T> route_logits(const StepContext& ctx, const Matrix<const T>& z,
                          const Routing<T>* replay) const override;
  void logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                       const Routing<T>& routing, const RouterFeedback<T>& feedback,
                       const Matrix<T>& d_z) const override;

 private:
  double factor_;
};

}  // namespace kokomoe
