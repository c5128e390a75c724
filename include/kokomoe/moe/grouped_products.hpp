// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/arena.hpp"
#include "kokomoe/core/gemm.hpp"
#include "kokomoe/core/segment_sums.hpp"
#include "kokomoe/parameters/parameter_store.hpp"

#include <span>

namespace kokomoe {

/// How experts multiply and sum over rows: by BLAS and fixed tiles, or so that nothing depends on
/// the layout (StepContext::layout_free); and how they keep their hidden layer.
struct RowArithmetic {
  bool layout_free = false;
  /// What the rows are cut into where gradients are summed: (expert, sequence).
  Segments segments{};
  bool round_kept = false;  ///< StepContext::round_kept
};

/// The segments of rows sorted by expert: a new one begins with every expert and every sequence.
/// `sequence_of_row` (n) tells sequences apart that follow each other; empty `expert_of_row`: one.
Segments segments_of_rows(const ExecutionSpace& space, Arena& arena,
                          const Vector<const int>& expert_of_row,
                          const Vector<const std::uint32_t>& sequence_of_row);

/// c = a b_g or a b_g^T for each group of rows; see grouped_gemm.
template <class T>
void multiply_groups(const ExecutionSpace& space, Arena& scratch, const RowArithmetic& how,
                     Transpose transpose_b, const Matrix<const T>& a, const Matrix<const T>& b,
                     const Matrix<T>& c, std::span<const int> offsets);

/// Where gradients of local experts [first, end) of a stacked tensor go.
struct ExpertGradients {
  ParameterHandle handle{};
  int first = 0, end = 0;
  bool accumulate = false;  ///< this update has written them before
};

/// The gradient of w_g in y = x w_g^T: the sum over the rows of group g of dy x.
template <class T>
void add_weight_gradients(const ExecutionSpace& space, Arena& scratch, const RowArithmetic& how,
                          const Matrix<const T>& dy, const Matrix<const T>& x,
                          std::span<const int> offsets, const ParameterStore<T>& store,
                          const ExpertGradients& to);

/// The gradient of a bias: the sum over the rows of group g of weight dy; an empty weight is 1.
template <class T>
void add_bias_gradients(const ExecutionSpace& space, Arena& scratch, const RowArithmetic& how,
                        const Matrix<const T>& dy, const Vector<const T>& weight,
                        std::span<const int> offsets, const ParameterStore<T>& store,
                        const ExpertGradients& to);

}  // namespace kokomoe
