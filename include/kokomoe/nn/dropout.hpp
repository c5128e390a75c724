// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/step_context.hpp"

namespace kokomoe {

/// Inverted dropout: y = x keep / (1 - rate), keep drawn for each element by (seed, step, layer,
/// token, channel, lane). Nothing is saved: backward draws the same mask and applies it to dy.
/// Adds to y with `accumulate` (the residual). rate 0 or evaluation: y (+)= x. `lane` < 2^16
/// separates several dropouts of one layer. x, y (T, d); y may be x.
template <class T>
void dropout(const StepContext& ctx, double rate, int layer, int lane, const Matrix<const T>& x,
             const Matrix<T>& y, bool accumulate);

}  // namespace kokomoe
