// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/arena.hpp"
#include "kokomoe/core/types.hpp"

namespace kokomoe {

/// out[c] = beta out[c] + sum_r weight[r] a(r, c) b(r, c). An empty b or weight counts as ones.
/// Rows are added in tiles of 128 whose sums are added in order, so the result
/// does not depend on the number of threads. T: float, double.
template <class T>
void column_sum(const ExecutionSpace& space, Arena& scratch, const Matrix<const T>& a,
                const Matrix<const T>& b, const Vector<const T>& weight, T beta, const Vector<T>& out);

}  // namespace kokomoe
