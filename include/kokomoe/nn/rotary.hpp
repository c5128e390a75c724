// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/step_context.hpp"

#include <string>

namespace kokomoe {

/// How a model is told where a token stands: heads are turned, or a row of a table is added.
enum class Positions { rotary, learned };

/// "rotary" or "learned"; throws InputError.
Positions parse_positions(const std::string& name);

/// Rotary position embedding (Su et al., arXiv 2104.09864): inside each head of width w, channel
/// pair (j, j + w/2) is turned by position * 10000^(-2j/w). Angles are tabulated once, in double.
template <class T>
class Rotary {
 public:
  Rotary() = default;
  /// Throws InputError when head_width is odd.
  Rotary(const ExecutionSpace& space, int positions, int head_width);

  /// Turns `heads` heads that start at column `first` of x (T, any), in place; `inverse` turns
  /// back, which is what a gradient needs. ctx.tokens.position must lie below `positions`.
  void apply(const StepContext& ctx, const Matrix<T>& x, int first, int heads, bool inverse) const;

  int positions() const { return static_cast<int>(table_.extent(0)); }

 private:
  int width_ = 0;
  Matrix<T> table_;  ///< (positions, w): w/2 cosines, then w/2 sines
};

}  // namespace kokomoe
