// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/gemm.hpp"
#include "kokomoe/core/types.hpp"

#include <span>

namespace kokomoe {

/// For every group g with rows [offsets[g], offsets[g+1]) of `a` and `c`:
///   c_g = a_g op(b_g) + beta c_g,
/// where b_g is the g-th of offsets.size() - 1 equal blocks of b's rows. `offsets` is on the host;
/// the first row of `a` and `c` is number offsets[0], so that a run of groups can be done alone.
/// Throws Error naming the shapes when they do not fit. T: float, double.
template <class T>
void grouped_gemm(const ExecutionSpace& space, Transpose transpose_b, const Matrix<const T>& a,
                  const Matrix<const T>& b, T beta, const Matrix<T>& c,
                  std::span<const int> offsets);

/// Weight gradients: c_g = a_g^T b_g + beta c_g over each group's rows, with c_g the g-th of equal
/// blocks of c's rows. A group without rows gives zero (beta = 0) or is left alone (beta = 1).
template <class T>
void grouped_gemm_transposed(const ExecutionSpace& space, const Matrix<const T>& a,
                             const Matrix<const T>& b, T beta, const Matrix<T>& c,
                             std::span<const int> offsets);

}  // namespace kokomoe
