// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/arena.hpp"
#include "kokomoe/core/gemm.hpp"
#include "kokomoe/core/types.hpp"

namespace kokomoe {

/// C = A op(B), or C += A op(B), with A (m, k), op(B) (k, n), C (m, n). An element of C has the
/// same bits whatever the number of rows, the row's place among them and the number of threads: it
/// depends on its row of A and on B alone. A BLAS does not promise that: it chooses tiles and the
/// order of a sum by the shapes. Throws Error naming the shapes when they do not fit.
/// T: float, double.
template <class T>
void row_gemm(const ExecutionSpace& space, Arena& scratch, Transpose transpose_b,
              const Matrix<const T>& a, const Matrix<const T>& b, bool accumulate,
              const Matrix<T>& c);

}  // namespace kokomoe
