// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/detail/top_k_choice.hpp"

namespace kokomoe {

/// top_k with softmax before the choice, where experts that do not run stand in by their mean output:
/// y = sum over those that run of p_e E_e(x) + sum over the others of p_e m_e (Default MoE, Panda et
/// al. 2025, arXiv 2504.12463), so that every logit has a gradient. m_e is a moving average, constant
/// for the gradient: after each optimizer step m_e = decay m_e + (1 - decay) (mean output of e over all
/// tokens that it saw in it, of all ranks); an expert that saw none keeps its own. The paper moves m
/// before it is used, so that tokens see their neighbours; here they see the last step's. The state
/// NAME.mean_output (E, d) is m, zero at first. An assignment dropped by a capacity counts as not run.
template <class T>
class DefaultMoeRouter final : public Router<T> {
 public:
  static RouterInfo info();
  DefaultMoeRouter(const RouterPlace& place, const RouterOptions& options,
                   ParameterStore<T>& store);

  int max_slots(int tokens) const override { return tokens * this->place_.k; }
  Routing<T> route_logits(const StepContext& ctx, const Matrix<const T>& z,
                          const Routing<T>* replay) const override;
  bool adds_output() const override { return true; }
  void add_output(const StepContext& ctx, const Routing<T>& routing,
                  const Matrix<T>& y) const override;
  void after_experts(const StepContext& ctx, const Routing<T>& routing, const Matrix<const T>& out,
                     const Vector<const int>& slot_of_row) override;
  void logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                       const Routing<T>& routing, const RouterFeedback<T>& feedback,
                       const Matrix<T>& d_z) const override;
  void end_step(const StepContext& ctx, const RouterStatistics& statistics) override;
  void discard_step(const ExecutionSpace& space) override { Kokkos::deep_copy(space, gathered_, 0); }

 private:
  ParameterHandle mean_output_;
  double decay_;
  detail::TopKRule rule_;
  Matrix<double> gathered_;  ///< (E, d + 1) sums of this rank's outputs since the last step, counts
};

}  // namespace kokomoe
