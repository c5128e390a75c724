// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/router_registry.hpp"

namespace kokomoe {

/// Every expert, weighted by its softmax probability: y = sum_i p_i E_i(x). Costs E experts a token;
/// its gradient is exact, which is what it is for.
template <class T>
class DenseMixtureRouter final : public Router<T> {
 public:
  static RouterInfo info();
  DenseMixtureRouter(const RouterPlace& place, const RouterOptions& options, ParameterStore<T>& store);

  int max_slots(int tokens) const override { return tokens * this->place_.experts; }
  Routing<T> route_logits(const StepContext& ctx, const Matrix<const T>& z,
                          const Routing<T>* replay) const override;
  void logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                       const Routing<T>& routing, const RouterFeedback<T>& feedback,
                       const Matrix<T>& d_z) const override;

 private:
};

}  // namespace kokomoe
