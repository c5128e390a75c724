// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/arena.hpp"
#include "kokomoe/core/exact_sum.hpp"
#include "kokomoe/core/types.hpp"

#include <span>

namespace kokomoe {

/// Rows cut into segments: the tokens of one sequence, or those of one sequence at one expert.
/// A segment is summed in the order of its rows; sums of segments are added exactly. So a total
/// depends on what the segments hold, not on where they lie.
struct Segments {
  Vector<const int> starts;  ///< (count + 1 or more) first row of each, ascending; then the rows
  int count = 0;             ///< at least the segments there are: others begin behind the last row
};

/// out(i, j) = [out(i, j) +] sum over segments s of the rounded sum over rows t of s of
/// a(t, i) b(t, j). a (n, m) and b (n, w) are rows [first, first + n) of what `segments` cuts; both
/// ends lie between segments. T: float, double.
template <class T>
void exact_product(const ExecutionSpace& space, Arena& scratch, const Matrix<const T>& a,
                   const Matrix<const T>& b, const Segments& segments, int first, bool accumulate,
                   const exact_sum::Sums& out);

/// out(g, c) = [out(g, c) +] sum over segments s of group g of the rounded sum over rows t of s of
/// weight(t) a(t, c) b(t, c). An empty b or weight counts as ones. Group g has rows
/// [offsets[g], offsets[g + 1]), row r of a, b and weight being number offsets[0] + r.
template <class T>
void exact_column_sum(const ExecutionSpace& space, Arena& scratch, const Matrix<const T>& a,
                      const Matrix<const T>& b, const Vector<const T>& weight,
                      const Segments& segments, std::span<const int> offsets, bool accumulate,
                      const exact_sum::Sums& out);

/// out(r, c) = [out(r, c) +] the sum over i in [offsets[r], offsets[r + 1]) of a(order[i], c),
/// where rows that follow each other with the same `segment` are summed first and rounded.
template <class T>
void exact_scatter_sum(const ExecutionSpace& space, const Matrix<const T>& a,
                       const Vector<const int>& offsets, const Vector<const int>& order,
                       const Vector<const std::uint32_t>& segment, bool accumulate,
                       const exact_sum::Sums& out);

/// out(c) = sum over segments of the sum of a(t, c) in double, rounded to the grid.
template <class T>
void grid_column_sum(const ExecutionSpace& space, Arena& scratch, const Matrix<const T>& a,
                     const Segments& segments, const exact_sum::Grid& grid,
                     const Vector<double>& out);

}  // namespace kokomoe
