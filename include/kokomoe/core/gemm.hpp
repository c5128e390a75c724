// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/types.hpp"

#include <string>

namespace kokomoe {

enum class Transpose { no, yes };

/// C = alpha op(A) op(B) + beta C with op(A) (m, k), op(B) (k, n), C (m, n); any extent may be 0.
/// With beta = 0, C is never read. Throws Error naming the shapes when they do not fit.
/// T: float, double.
template <class T>
void gemm(const ExecutionSpace& space, Transpose transpose_a, Transpose transpose_b, T alpha,
          const Matrix<const T>& a, const Matrix<const T>& b, T beta, const Matrix<T>& c);

/// Which library a GEMM of this build reaches, for the start banner.
std::string gemm_library();

/// The OPENBLAS_CORETYPE that this CPU could run and this OpenBLAS does not: an OpenBLAS older than
/// the CPU falls back to its slowest kernels, five times slower here. "" when all is well or the
/// BLAS is another. It must be set before the process starts: OpenBLAS chooses when it is loaded.
std::string better_openblas_core();

/// Gives the BLAS as many threads as the execution space has: an OpenBLAS left alone uses every
/// core under the Serial backend too. Call once after Kokkos::initialize.
void configure_blas();

}  // namespace kokomoe
