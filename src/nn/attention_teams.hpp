// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/nn/attention_kernel.hpp"

/// Attention of a device, on any execution space: a team takes a block of queries (forward) or a
/// sequence and head (backward).
namespace kokomoe::detail {

/// See kokomoe::attention_forward.
template <class T>
void attention_forward_teams(const StepContext& ctx, const AttentionInput<T>& input,
                             const Matrix<T>& out, const Matrix<T>& log_sum);

/// See kokomoe::attention_backward.
template <class T>
void attention_backward_teams(const StepContext& ctx, const AttentionInput<T>& input,
                              const Matrix<const T>& out, const Matrix<const T>& log_sum,
                              const Matrix<const T>& d_out, const Matrix<T>& d_query,
                              const Matrix<T>& d_key, const Matrix<T>& d_value);

}  // namespace kokomoe::detail
