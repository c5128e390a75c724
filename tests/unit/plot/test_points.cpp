// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "plot/points.hpp"
#include "support/catch.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

using namespace kokomoe::plot;
using namespace kokomoe::test;

namespace {

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

/// Something that goes up and down, the same everywhere.
Points noise(std::size_t n) {
  Points points(n);
  unsigned state = 1;
  for (std::size_t i = 0; i < n; ++i) {
    state = state * 1664525u + 1013904223u;
    points[i] = {static_cast<double>(i), static_cast<double>(state >> 8)};
  }
  return points;
}

}  // namespace

TEST_CASE("few points stay as they are", "[plot]") {
  const Points points = noise(40);
  const Points kept = condense(points, Axis(0, 39), 20);
  REQUIRE(kept.size() == points.size());
  for (std::size_t i = 0; i < kept.size(); ++i) CHECK(kept[i].y == points[i].y);
  CHECK(condense({}, Axis(0, 1), 20).empty());
}

TEST_CASE("each column keeps its least and its largest", "[plot]") {
  const std::size_t n = 100000, columns = 250;
  const Points points = noise(n);
  const Axis axis(0, static_cast<double>(n));
  const Points kept = condense(points, axis, columns);
  CHECK(kept.size() <= 2 * columns + 2);
  CHECK(std::is_sorted(kept.begin(), kept.end(),
                       [](const Point& a, const Point& b) { return a.x < b.x; }));
  CHECK(kept.front().x == points.front().x);
  CHECK(kept.back().x == points.back().x);
  const std::size_t width = n / columns;
  for (std::size_t c = 0; c < columns; ++c) {
    double least = 1e300, largest = -1e300, kept_least = 1e300, kept_largest = -1e300;
    for (std::size_t i = c * width; i < (c + 1) * width; ++i) {
      least = std::min(least, points[i].y);
      largest = std::max(largest, points[i].y);
    }
    for (const Point& point : kept) {
      if (static_cast<std::size_t>(point.x) / width != c) continue;
      kept_least = std::min(kept_least, point.y);
      kept_largest = std::max(kept_largest, point.y);
    }
    REQUIRE(kept_least == least);
    REQUIRE(kept_largest == largest);
  }
}

TEST_CASE("one step's spike is not lost, a stretch without numbers is one gap", "[plot]") {
  Points points(100000);
  for (std::size_t i = 0; i < points.size(); ++i)
    points[i] = {static_cast<double>(i), i >= 40000 && i < 60000 ? nan_value : 1.0};
  points[77777].y = 50;
  points[20000].y = nan_value;  // one among many: not a gap that could be seen
  const Points kept = condense(points, Axis(0, 99999), 100);
  CHECK(std::count_if(kept.begin(), kept.end(), [](const Point& p) { return p.y == 50; }) == 1);
  const auto gaps = [&](double from, double to) {
    return std::count_if(kept.begin(), kept.end(), [&](const Point& p) {
      return std::isnan(p.y) && p.x >= from && p.x < to;
    });
  };
  CHECK(gaps(0, 39000) == 0);
  CHECK(gaps(41000, 59000) > 0);
  CHECK(gaps(61000, 100000) == 0);
}

TEST_CASE("smoothing is a centred mean", "[plot]") {
  Points points = noise(300);
  points[100].y = nan_value;
  const std::size_t half = 7;
  const Points means = smooth(points, half, 1000);
  REQUIRE(means.size() == points.size());
  for (std::size_t i = 0; i < points.size(); ++i) {
    const std::size_t reach = std::min({half, i, points.size() - 1 - i});
    long double sum = 0;
    int count = 0;
    for (std::size_t j = i - reach; j <= i + reach; ++j)
      if (!std::isnan(points[j].y)) sum += points[j].y, ++count;
    REQUIRE(means[i].x == points[i].x);
    REQUIRE(means[i].y == Approx(static_cast<double>(sum / count)));
  }
  // A straight line stays straight up to its ends; an explosion stays where it was.
  Points line(1001);
  for (std::size_t i = 0; i < line.size(); ++i)
    line[i] = {static_cast<double>(i), 3 - 0.001 * static_cast<double>(i)};
  for (const Point& p : smooth(line, 50, 400)) CHECK(p.y == Approx(3 - 0.001 * p.x));
  line[500].y = 1e30;
  const Points kept = smooth(line, 50, 1001);
  CHECK(kept[449].y == Approx(3 - 0.449));
  CHECK(kept[551].y == Approx(3 - 0.551));
  CHECK(kept[550].y > 1e27);
  CHECK(smooth(line, 50, 11).size() == 11);
  CHECK(smooth(line, 50, 11).back().x == 1000);
}

TEST_CASE("a range passes over what an axis cannot show", "[plot]") {
  Range linear, log(true);
  CHECK(linear.empty());
  for (const double value : {nan_value, 2.0, -1.0, std::numeric_limits<double>::infinity(), 0.0}) {
    linear.add(value);
    log.add(value);
  }
  CHECK(linear.low() == -1);
  CHECK(linear.high() == 2);
  CHECK(log.low() == 2);
  CHECK(log.high() == 2);
}
