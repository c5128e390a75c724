// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cmath>

namespace kokomoe::test {

/// The nearest number with 8 bits of significand, ties to the even one, by arithmetic in double.
/// For normal floats.
inline double nearest_bfloat16(double x) {
  if (x == 0 || !std::isfinite(x)) return x;
  int exponent;
  std::frexp(x, &exponent);
  const double unit = std::ldexp(1.0, exponent - 8);
  return std::nearbyint(x / unit) * unit;
}

}  // namespace kokomoe::test
