// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/gemm.hpp"
#include "kokomoe/core/segment_sums.hpp"
#include "kokomoe/parallel/step_context.hpp"
#include "kokomoe/parameters/parameter_store.hpp"

/// The matrix products of layers with parameters, and the sums over tokens that are gradients: by
/// BLAS and fixed tiles, or, where StepContext::layout_free asks for it, so that results do not
/// depend on how tokens lie on threads and ranks. Layers say what, these say how.
namespace kokomoe {

/// The segments of a context's tokens: its sequences.
Segments segments_of(const StepContext& ctx);

/// y = x W^T, or with Transpose::no y = x W; added to y where `accumulate` says so.
template <class T>
void multiply(const StepContext& ctx, Transpose transpose_w, const Matrix<const T>& x,
              const Matrix<const T>& w, bool accumulate, const Matrix<T>& y);

/// The gradient of W in y = x W^T: dy^T x, to the tensor `weight` (outputs, inputs).
template <class T>
void add_weight_gradient(const StepContext& ctx, const Matrix<const T>& dy,
                         const Matrix<const T>& x, ParameterStore<T>& store,
                         ParameterHandle weight);

/// sum over tokens t of a(t, c) b(t, c), to the vector `parameter`; an empty b counts as ones.
template <class T>
void add_column_gradient(const StepContext& ctx, const Matrix<const T>& a, const Matrix<const T>& b,
                         ParameterStore<T>& store, ParameterHandle parameter);

}  // namespace kokomoe
