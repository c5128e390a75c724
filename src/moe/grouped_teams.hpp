// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/gemm.hpp"
#include "kokomoe/core/types.hpp"

#include <span>

/// Grouped products of a device, on any execution space: one kernel for all groups (a launch for
/// each 256 of them), whose offsets travel with its arguments. A team makes a tile of the result.
namespace kokomoe::detail {

/// See kokomoe::grouped_gemm. `team_threads`: of a team, 0 = what suits the device.
template <class T>
void grouped_gemm_teams(const ExecutionSpace& space, Transpose transpose_b,
                        const Matrix<const T>& a, const Matrix<const T>& b, T beta,
                        const Matrix<T>& c, std::span<const int> offsets, int team_threads = 0);

/// See kokomoe::grouped_gemm_transposed. An `a` without memory counts as ones (rows, 1).
template <class T>
void grouped_gemm_transposed_teams(const ExecutionSpace& space, const Matrix<const T>& a,
                                   const Matrix<const T>& b, T beta, const Matrix<T>& c,
                                   std::span<const int> offsets, int team_threads = 0);

}  // namespace kokomoe::detail
