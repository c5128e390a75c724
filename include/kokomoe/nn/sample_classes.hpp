// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/philox.hpp"
#include "kokomoe/parallel/step_context.hpp"

namespace kokomoe {

/// One class for each row of logits (T, V), drawn from softmax(logits / temperature) by inversion:
/// the first class up to which the probabilities sum to more than the token's uniform draw of
/// `purpose` (seed, step, replica, token). A row with a logit that is NaN or +infinity gives some
/// class in [0, V). classes (T).
template <class T>
void sample_classes(const StepContext& ctx, Purpose purpose, double temperature,
                    const Matrix<const T>& logits, const Vector<int>& classes);

}  // namespace kokomoe
