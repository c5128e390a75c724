// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/detail/sampled_gate.hpp"

namespace kokomoe {

/// The sampled gate with the score function's gradient (Williams 1992, doi 10.1007/BF00992696):
///   dL/dz = grad_factor ( (f - b) d log p_D + <dL/dy, E_D> dp_D )
/// f is the loss of the token's sequence as a share of the total, ctx.loss_scale
/// ctx.sequence_loss. It has no bias, whatever f is, and far more variance than the others. The
/// baseline b is the running mean of f over sequences. It is state: NAME.baseline (2) holds b and
/// whether it was ever moved. The first update uses b = 0 and then sets b to its own mean; later
/// ones move it by b <- baseline_decay b + (1 - baseline_decay) mean. s = 1 always, so
/// argmax_exception changes nothing. See detail::SampledGateRouter.
template <class T>
class ReinforceRouter final : public detail::SampledGateRouter<T> {
 public:
  static RouterInfo info();
  ReinforceRouter(const RouterPlace& place, const RouterOptions& options,
                  ParameterStore<T>& store);

  /// Throws Error when ctx.sequence_loss is not there.
  void logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                       const Routing<T>& routing, const RouterFeedback<T>& feedback,
                       const Matrix<T>& d_z) const override;
  void end_step(const StepContext& ctx, const RouterStatistics& statistics) override;
  void discard_step(const ExecutionSpace& space) override { Kokkos::deep_copy(space, gathered_, 0); }
  EstimatorInfo estimator() const override;

 private:
  double decay_;
  ParameterHandle baseline_;
  /// (2) sum of f and number of sequences that backward saw since the last end_step.
  Vector<double> gathered_;
};

}  // namespace kokomoe
