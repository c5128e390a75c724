// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/detail/top_k_choice.hpp"

namespace kokomoe {

/// The k largest logits. softmax = "before": the weight is the probability over all experts (GLaM,
/// arXiv 2112.06905), so that unchosen logits learn too; "after": the softmax over the chosen ones
/// (Mixtral, arXiv 2401.04088). Jitter as in Switch. With a group limit the experts come from the
/// best groups (DeepSeek-V2, arXiv 2405.04434); weights are as without one.
template <class T>
class TopKRouter final : public Router<T> {
 public:
  static RouterInfo info();
  TopKRouter(const RouterPlace& place, const RouterOptions& options, ParameterStore<T>& store);

  int max_slots(int tokens) const override { return tokens * this->place_.k; }
  Routing<T> route_logits(const StepContext& ctx, const Matrix<const T>& z,
                          const Routing<T>* replay) const override;
  void logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                       const Routing<T>& routing, const RouterFeedback<T>& feedback,
                       const Matrix<T>& d_z) const override;

 private:
  double jitter_;
  detail::TopKRule rule_;
};

}  // namespace kokomoe
