// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "plot/points.hpp"

#include <algorithm>
#include <cmath>

namespace kokomoe::plot {

void Range::add(double value) {
  if (!std::isfinite(value) || (log_ && !(value > 0))) return;
  low_ = std::min(low_, value);
  high_ = std::max(high_, value);
}

Points condense(const Points& points, const Axis& x, std::size_t columns) {
  if (columns == 0 || points.size() <= 2 * columns) return points;
  const auto column_of = [&](const Point& point) {
    const double at = x.fraction(point.x) * static_cast<double>(columns);
    return static_cast<std::size_t>(std::clamp(at, 0.0, static_cast<double>(columns - 1)));
  };
  constexpr std::size_t none = static_cast<std::size_t>(-1);
  Points kept;
  kept.reserve(2 * columns + 2);
  const auto keep = [&](std::size_t i, std::size_t& last) {
    if (i == none || (last != none && i <= last)) return;
    kept.push_back(points[i]);
    last = i;
  };
  std::size_t last = none;
  keep(0, last);
  for (std::size_t begin = 0; begin < points.size();) {
    const std::size_t column = column_of(points[begin]);
    std::size_t end = begin, least = none, largest = none;
    for (; end < points.size() && column_of(points[end]) == column; ++end) {
      if (!std::isfinite(points[end].y)) continue;
      if (least == none || points[end].y < points[least].y) least = end;
      if (largest == none || points[end].y > points[largest].y) largest = end;
    }
    if (least == none) {
      keep(begin, last);
    } else {
      keep(std::min(least, largest), last);
      keep(std::max(least, largest), last);
    }
    begin = end;
  }
  keep(points.size() - 1, last);
  return kept;
}

Points smooth(const Points& points, std::size_t half, std::size_t most) {
  const std::size_t n = points.size();
  const std::size_t centres = std::min(n, std::max<std::size_t>(most, 2));
  Points means;
  means.reserve(centres);
  for (std::size_t c = 0; c < centres; ++c) {
    const std::size_t i = centres < n ? c * (n - 1) / (centres - 1) : c;
    const std::size_t reach = std::min({half, i, n - 1 - i});
    // Each window anew: running sums would lose all digits behind a loss that exploded.
    double sum = 0;
    std::size_t count = 0;
    for (std::size_t j = i - reach; j <= i + reach; ++j) {
      if (!std::isfinite(points[j].y)) continue;
      sum += points[j].y;
      ++count;
    }
    means.push_back({points[i].x, count > 0 ? sum / static_cast<double>(count)
                                            : std::numeric_limits<double>::quiet_NaN()});
  }
  return means;
}

}  // namespace kokomoe::plot
