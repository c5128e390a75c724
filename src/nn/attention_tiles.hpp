// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "core/host_units.hpp"
#include "kokomoe/nn/attention_kernel.hpp"

#if KOKOMOE_HOST_TILES
/// Attention of a host: a thread takes blocks of queries and keys through matrix products in its
/// vector registers. Equal rows give equal results, wherever they lie.
namespace kokomoe::detail {

/// See kokomoe::attention_forward.
template <class T>
void attention_forward_tiles(const StepContext& ctx, const AttentionInput<T>& input,
                             const Matrix<T>& out, const Matrix<T>& log_sum);

/// See kokomoe::attention_backward.
template <class T>
void attention_backward_tiles(const StepContext& ctx, const AttentionInput<T>& input,
                              const Matrix<const T>& out, const Matrix<const T>& log_sum,
                              const Matrix<const T>& d_out, const Matrix<T>& d_query,
                              const Matrix<T>& d_key, const Matrix<T>& d_value);

}  // namespace kokomoe::detail
#endif
