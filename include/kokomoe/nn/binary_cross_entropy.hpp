// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/step_context.hpp"

namespace kokomoe {

/// Sums over the tokens of this rank, on the device:
///   [ loss, nats | tokens told right | tokens of label 1 | those of them told right ]
struct BinarySums {
  static constexpr int width = 4;
};

/// Logistic loss of one logit z a token, logits (T, 1), against labels (T), 0 or 1:
///   log(1 + exp(z)) - label z;   z > 0 says 1.
/// Writes `sums` (4). With `gradient`, logits become scale dL/dz, in place; the sums are not
/// scaled. `sequence_loss` (B), where given: the first sum over each of ctx.tokens' sequences.
template <class T>
void binary_cross_entropy(const StepContext& ctx, const Matrix<T>& logits,
                          const Vector<const int>& labels, double scale, bool gradient,
                          const Vector<double>& sums, const Vector<double>& sequence_loss = {});

}  // namespace kokomoe
