// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "core/host_units.hpp"
#include "kokomoe/core/kept_rows.hpp"
#include "kokomoe/core/picked_rows.hpp"
#include "kokomoe/moe/activation.hpp"
#include "kokomoe/moe/expert_kernels.hpp"

#include <span>

// Elsewhere experts multiply through the grouped GEMM.
#define KOKOMOE_EXPERT_BLOCKS KOKOMOE_HOST_TILES

/// Experts as units of work that one core takes whole: a block of rows goes through both matrices
/// and the activation while it lies in the core's cache, and weights are read where they lie, once
/// for each block. A library's GEMM packs them first, which for an expert with few rows costs as
/// much as the product. No result depends on how many cores share the work.
namespace kokomoe::detail {

/// Where blocks beat a BLAS: with vectors of 64 bytes, by 1.0 (a dense layer) to 1.9 (64 experts of
/// 64 rows); with 32 bytes OpenBLAS is faster by a tenth; others were not measured.
#if KOKOMOE_EXPERT_BLOCKS && defined(__AVX512F__)
inline constexpr ExpertKernels fastest_kernels = ExpertKernels::blocks;
#else
inline constexpr ExpertKernels fastest_kernels = ExpertKernels::gemm;
#endif

/// Hidden channels of a unit of backward's first pass.
inline constexpr int backward_chunk_width = 64;

/// The stacked tensors of E experts: w1 (E width, d), b1 (E, width), w2 (E d, h), b2 (E, d); no
/// biases: empty. T may be const.
template <class T>
struct ExpertTensors {
  Matrix<T> w1, b1, w2, b2;
};

/// What products read: w1 and w2 in bfloat16 where they are not empty, else as they are.
template <class T>
struct ExpertWeights {
  ExpertTensors<const T> whole;
  Matrix<const Bfloat16> w1, w2;
};

/// Whether a gradient adds to what is there or replaces it.
struct ExpertAdds {
  bool w1 = false, b1 = false, w2 = false, b2 = false;
};

/// See Experts::forward. `hidden` (n, width) gets the pre-activations, bias included, in an order
/// of its own that backward_blocks knows, given equal `offsets`.
template <class T>
void forward_blocks(const ExecutionSpace& space, Arena& scratch, Activation activation,
                    const ExpertWeights<T>& weights, std::span<const int> offsets,
                    const PickedRows<T>& rows, const KeptRows<T>& hidden, const Matrix<T>& out);

/// See Experts::backward.
template <class T>
void backward_blocks(const ExecutionSpace& space, Arena& scratch, Activation activation,
                     const ExpertWeights<T>& weights, std::span<const int> offsets,
                     const PickedRows<T>& rows, const KeptRows<T>& hidden,
                     const PickedRows<T>& d_out, const Vector<const T>& row_weight,
                     const Matrix<T>& d_rows, const Vector<T>& d_row_weight,
                     const Vector<T>& d_factor, const ExpertTensors<T>& gradients,
                     const ExpertAdds& adds);

}  // namespace kokomoe::detail
