// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/router_registry.hpp"

namespace kokomoe {

/// Quantile balancing (Su 2026, kexue.fm/archives/11619): the top k of s - beta, with thresholds of
/// the n tokens of a routing group and of the experts found in turn, `iterations` times from beta =
/// 0:
///   alpha_t = (k + 1)-th largest over e of s_te - beta_e
///   beta_e  = between the m-th and the (m + 1)-th largest over t of s_te - alpha_t,
///   m       = ceil(n k / E),
/// the dual of the balanced assignment, coordinate by coordinate. Half way between the two, because
/// the lower one ties the token that it is taken from with its alternative: rounding would choose,
/// and the iteration stall. Where m >= n (one token, k = E) it is the top k of s. The same in
/// training and evaluation: without beta the experts that it holds back would take over.
///
/// s = sigmoid(z) or softmax(z), as `score` says; the weights are s / sum of the chosen s, and s
/// itself for k = 1, where that would be 1 and teach nothing. Thresholds have no gradient.
template <class T>
class QuantileBalanceRouter final : public Router<T> {
 public:
  static RouterInfo info();
  QuantileBalanceRouter(const RouterPlace& place, const RouterOptions& options,
                        ParameterStore<T>& store);

  int max_slots(int tokens) const override { return tokens * this->place_.k; }
  Routing<T> route_logits(const StepContext& ctx, const Matrix<const T>& z,
                          const Routing<T>* replay) const override;
  void logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                       const Routing<T>& routing, const RouterFeedback<T>& feedback,
                       const Matrix<T>& d_z) const override;

 private:
  bool softmax_;
  int iterations_;
};

}  // namespace kokomoe
