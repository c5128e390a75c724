// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/exact_sum.hpp"

#include "support/catch.hpp"
#include "support/host_arrays.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

__extension__ typedef __int128 Wide;

struct Limbs {
  std::int64_t high = 0, low = 0;
  bool operator==(const Limbs&) const = default;
};

/// The value in units of 2^-76: what both limbs stand for.
Wide units(const Limbs& x) {
  return (Wide(x.high) << exact_sum::limb_bits) + x.low;
}

/// The nearest multiple of 2^-76 (ties apart), from the bits of x alone.
Wide nearest_units(double x) {
  int exponent = 0;
  const double fraction = std::frexp(x, &exponent);
  const auto mantissa = static_cast<std::int64_t>(std::ldexp(fraction, 53));
  const int shift = exponent - 53 + 76;
  if (shift >= 0) return Wide(mantissa) << shift;
  if (shift < -62) return 0;
  const Wide half = Wide(1) << (-shift - 1);
  return (Wide(mantissa) + half) >> -shift;
}

Limbs sum(const std::vector<double>& parts) {
  Limbs result;
  int added = 0;
  for (const double x : parts) {
    exact_sum::add(x, result.high, result.low);
    if (++added % exact_sum::parts_between_carries == 0) exact_sum::carry(result.high, result.low);
  }
  exact_sum::carry(result.high, result.low);
  return result;
}

/// Numbers of many sizes, the largest and smallest parts among them.
std::vector<double> mixed(std::size_t count, std::uint64_t seed) {
  Draw draw(seed);
  std::vector<double> parts(count);
  for (double& x : parts) x = draw() * std::ldexp(1.0, static_cast<int>(draw(45)) - 30);
  parts.push_back(std::nextafter(exact_sum::part_limit, 0.0));
  parts.push_back(-std::nextafter(exact_sum::part_limit, 0.0));
  parts.push_back(std::numeric_limits<double>::denorm_min());
  parts.push_back(-0.0);
  return parts;
}

}  // namespace

TEST_CASE("one part is its number rounded to 2^-76", "[exact]") {
  for (const double x : mixed(20000, 1)) {
    const Limbs limbs = sum({x});
    const Wide error = units(limbs) - nearest_units(x);
    CAPTURE(x);
    CHECK((error == 0 || std::abs(x) < 0x1p-23));  // ties may go the other way
    CHECK((error <= 1 && error >= -1));
    CHECK(std::abs(exact_sum::value(limbs.high, limbs.low) - x) <= 0x1p-76);
  }
}

TEST_CASE("a sum is that of its parts' whole numbers, in any order", "[exact]") {
  std::vector<double> parts = mixed(50000, 2);
  Wide expected = 0;
  for (const double x : parts) expected += units(sum({x}));
  const Limbs first = sum(parts);
  CHECK(units(first) == expected);
  std::reverse(parts.begin(), parts.end());
  CHECK(sum(parts) == first);
  std::sort(parts.begin(), parts.end());
  CHECK(sum(parts) == first);
  // The same numbers in floating point do care.
  std::vector<double> ascending = parts, descending(parts.rbegin(), parts.rend());
  CHECK(std::accumulate(ascending.begin(), ascending.end(), 0.0) !=
        std::accumulate(descending.begin(), descending.end(), 0.0));

  // In groups, each carried by itself, as ranks hold them.
  Limbs grouped;
  for (std::size_t begin = 0; begin < parts.size(); begin += 777) {
    const std::size_t end = std::min(parts.size(), begin + 777);
    const Limbs own = sum({parts.begin() + static_cast<std::ptrdiff_t>(begin),
                           parts.begin() + static_cast<std::ptrdiff_t>(end)});
    grouped.high += own.high;
    grouped.low += own.low;
  }
  exact_sum::carry(grouped.high, grouped.low);
  CHECK(grouped == first);
}

TEST_CASE("as many of the largest parts as an update may have fit", "[exact]") {
  const double most = std::nextafter(exact_sum::part_limit, 0.0);
  for (const double x : {most, -most}) {
    Limbs limbs;
    const std::int64_t parts = 2 * exact_sum::largest_sequences;
    for (std::int64_t i = 1; i <= parts; ++i) {
      exact_sum::add(x, limbs.high, limbs.low);
      if (i % exact_sum::parts_between_carries == 0) exact_sum::carry(limbs.high, limbs.low);
    }
    CHECK(units(limbs) == units(sum({x})) * parts);
    CHECK(exact_sum::value(limbs.high, limbs.low) == x * static_cast<double>(parts));
  }
}

TEST_CASE("what is no part is told", "[exact]") {
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(exact_sum::is_part(0));
  CHECK(exact_sum::is_part(-std::nextafter(exact_sum::part_limit, 0.0)));
  for (const double x : {exact_sum::part_limit, -exact_sum::part_limit, 1e300, infinity, -infinity,
                         std::numeric_limits<double>::quiet_NaN()})
    CHECK_FALSE(exact_sum::is_part(x));
}

TEST_CASE("numbers on a grid add without rounding", "[exact]") {
  constexpr int tokens = 5000;
  const exact_sum::Grid grid(4, tokens);
  Draw draw(3);
  std::vector<double> parts(tokens);
  for (double& x : parts) x = grid.round(draw(16));
  const double forward = std::accumulate(parts.begin(), parts.end(), 0.0);
  CHECK(std::accumulate(parts.rbegin(), parts.rend(), 0.0) == forward);
  std::sort(parts.begin(), parts.end());
  CHECK(std::accumulate(parts.begin(), parts.end(), 0.0) == forward);
  // The largest of all, as often as there are tokens, and a step more.
  const double most = grid.round(16);
  double sum = 0;
  for (int i = 0; i < tokens; ++i) sum += most;
  CHECK(sum + grid.step - sum == grid.step);

  for (const double x : {1.0, -3.25, 15.999, 1e-3}) CHECK(std::abs(grid.round(x) - x) <= grid.step);
  CHECK(std::isnan(grid.round(grid.limit)));
  CHECK(std::isnan(grid.round(-std::numeric_limits<double>::infinity())));
  CHECK(std::isnan(grid.round(std::numeric_limits<double>::quiet_NaN())));
}
