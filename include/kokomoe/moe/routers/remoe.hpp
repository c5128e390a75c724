// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/router_registry.hpp"

namespace kokomoe {

/// Every expert with a positive logit, weighted by it: ReLU(z), differentiable where it is not 0
/// (ReMoE, Wang et al. 2024, arXiv 2412.14711). k is what the number of experts a token is driven
/// to, by the loss lambda (1/T) sum_t sum_e f_e ReLU(z_te), f_e = E / (k T) * tokens of e, over all
/// ranks and constant for the gradient. After each optimizer step lambda *= growth when more than
/// k / E of all pairs were active, /= growth when fewer. The state NAME.lambda (1) is lambda. The
/// paper divides the loss by the number of layers as well; here each layer adds its own.
///
/// Memory: T E assignments are possible, and at first about half of them are active: rows for the
/// experts take up to T E d elements, E / k times what a top-k router needs.
template <class T>
class RemoeRouter final : public Router<T> {
 public:
  static RouterInfo info();
  RemoeRouter(const RouterPlace& place, const RouterOptions& options, ParameterStore<T>& store);

  int max_slots(int tokens) const override { return tokens * this->place_.experts; }
  Routing<T> route_logits(const StepContext& ctx, const Matrix<const T>& z,
                          const Routing<T>* replay) const override;
  void add_auxiliary_loss(const StepContext& ctx, const Routing<T>& routing,
                          const Vector<double>& sum) const override;
  void logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                       const Routing<T>& routing, const RouterFeedback<T>& feedback,
                       const Matrix<T>& d_z) const override;
  void end_step(const StepContext& ctx, const RouterStatistics& statistics) override;

 private:
  ParameterHandle lambda_;
  double growth_;
};

}  // namespace kokomoe
