// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/router_registry.hpp"

namespace kokomoe {

/// Switch Transformer (Fedus et al., arXiv 2101.03961): one expert, the argmax, weighted by its
/// softmax probability. In training the logits are first multiplied by U(1 - jitter, 1 + jitter).
template <class T>
class SwitchRouter final : public Router<T> {
 public:
  static RouterInfo info();
  SwitchRouter(const RouterPlace& place, const RouterOptions& options, ParameterStore<T>& store);

  int max_slots(int tokens) const override { return tokens * this->place_.k; }
  Routing<T> route_logits(const StepContext& ctx, const Matrix<const T>& z,
                          const Routing<T>* replay) const override;
  void logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                       const Routing<T>& routing, const RouterFeedback<T>& feedback,
                       const Matrix<T>& d_z) const override;

 private:
  double jitter_;
};

}  // namespace kokomoe
