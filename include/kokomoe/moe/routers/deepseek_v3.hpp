// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/detail/group_limit.hpp"

namespace kokomoe {

/// Sigmoid scores s = sigmoid(z), balanced by a bias b that only the choice sees (DeepSeek-V3, arXiv
/// 2412.19437, equations 12 to 16; Wang et al., arXiv 2408.15664): the k largest s + b, weighted by
/// s / (sum of the chosen s) times route_scale. After each optimizer step b_e += bias_rate
/// sign(mean load - load_e), from the counts of all ranks, and b is shifted to mean 0. The balance
/// loss, over sequences by default, averages s / (sum of all s). The state NAME.bias (E) is b.
template <class T>
class DeepSeekV3Router final : public Router<T> {
 public:
  static RouterInfo info();
  DeepSeekV3Router(const RouterPlace& place, const RouterOptions& options,
                   ParameterStore<T>& store);

  int max_slots(int tokens) const override { return tokens * this->place_.k; }
  Routing<T> route_logits(const StepContext& ctx, const Matrix<const T>& z,
                          const Routing<T>* replay) const override;
  void logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                       const Routing<T>& routing, const RouterFeedback<T>& feedback,
                       const Matrix<T>& d_z) const override;
  void end_step(const StepContext& ctx, const RouterStatistics& statistics) override;

 private:
  ParameterHandle bias_;
  double bias_rate_;
  double route_scale_;
  detail::GroupLimit groups_;
};

}  // namespace kokomoe
