// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/step_context.hpp"

namespace kokomoe {

/// Fixed positions of the first Transformer (Vaswani et al. 2017, 3.5):
///   P(p, 2i) = sin(p / 10000^(2i/d)),  P(p, 2i+1) = cos(p / 10000^(2i/d)).
template <class T>
class SinusoidalPositions {
 public:
  SinusoidalPositions(const ExecutionSpace& space, int positions, int d_model);

  /// x(t, :) += P(position of t, :). Throws Error when a sequence is too long.
  void add(const StepContext& ctx, const Matrix<T>& x) const;

 private:
  Matrix<T> table_;
};

/// x *= factor.
template <class T>
void scale_rows(const ExecutionSpace& space, double factor, const Matrix<T>& x);

}  // namespace kokomoe
