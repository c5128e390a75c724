// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/step_context.hpp"

namespace kokomoe {

/// Some tokens of a step, for heads that read no others.
struct TokenSelection {
  Vector<const int> rows;  ///< (M) where they lie among the step's tokens
  PackedTokens tokens;     ///< the same in sequences of their own; views in ctx.saved
};

/// The tokens at `rows` (M), which ascend, in the sequences that they had. Targets are their ids.
TokenSelection select_tokens(const StepContext& ctx, const Vector<const int>& rows);

/// The first token of each sequence, a sequence of its own; without targets. Row -1 stands for a
/// sequence without tokens.
TokenSelection select_first_tokens(const StepContext& ctx);

/// The step as the layers of a head see it.
StepContext with_tokens(const StepContext& ctx, const PackedTokens& tokens);

/// y(i, :) = x(rows(i), :), zeros for a row of -1. x (T, d), y (M, d).
template <class T>
void gather_rows(const ExecutionSpace& space, const Matrix<const T>& x,
                 const Vector<const int>& rows, const Matrix<T>& y);

/// WRITES dx: dx(rows(i), :) = dy(i, :), zeros elsewhere. No row but -1 may stand twice.
template <class T>
void scatter_rows(const ExecutionSpace& space, const Matrix<const T>& dy,
                  const Vector<const int>& rows, const Matrix<T>& dx);

}  // namespace kokomoe
