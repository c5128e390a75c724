// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/step_context.hpp"

namespace kokomoe {

/// Sums over the scored tokens (target >= 0) of this rank, on the device:
///   [ loss with label smoothing | negative log-likelihood, nats | tokens whose argmax is right ]
struct CrossEntropySums {
  static constexpr int width = 3;
};

/// Softmax cross-entropy of logits (T, V) against targets (T) in [0, V), -1 = not scored:
///   (1 - s) (-log p_target) + s mean_v (-log p_v),   s = smoothing.
/// Writes `sums` (3). With `gradient`, logits become ctx.loss_scale dL/dlogits, in place; the sums
/// are not scaled. `sequence_loss` (B), where given: the first sum over each of ctx.tokens' sequences.
template <class T>
void cross_entropy(const StepContext& ctx, const Matrix<T>& logits,
                   const Vector<const int>& targets, double smoothing, bool gradient,
                   const Vector<double>& sums, const Vector<double>& sequence_loss = {});

}  // namespace kokomoe
