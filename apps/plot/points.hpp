// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "plot/axis.hpp"

#include <cstddef>
#include <limits>
#include <vector>

namespace kokomoe::plot {

/// What is not finite in y leaves a gap.
struct Point {
  double x = 0, y = 0;
};

using Points = std::vector<Point>;

/// The least and the largest of what was added and finite (under a logarithm: positive).
class Range {
 public:
  explicit Range(bool log = false) : log_(log) {}
  void add(double value);
  bool empty() const { return !(low_ <= high_); }
  double low() const { return low_; }
  double high() const { return high_; }
  Axis axis(double margin = 0) const { return Axis(low_, high_, log_, margin); }

 private:
  double low_ = std::numeric_limits<double>::infinity();
  double high_ = -std::numeric_limits<double>::infinity();
  bool log_;
};

/// At most two points for each of `columns` columns of the axis, its least and its largest in their
/// order, so that a spike of one step stays to be seen; the first and the last point stay as they
/// are. A column without a finite y keeps one gap. Points by ascending x; the same ones when there
/// are no more than 2 * columns.
Points condense(const Points& points, const Axis& x, std::size_t columns);

/// Means over the points up to `half` to either side, fewer, but as many before as behind, near the
/// ends, so that slopes are not bent. At `most` points (two at least), the first and the last among
/// them. What is not finite is left out; NaN where nothing is left.
Points smooth(const Points& points, std::size_t half, std::size_t most);

}  // namespace kokomoe::plot
