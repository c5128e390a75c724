// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/math.hpp"
#include "support/catch.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

using namespace kokomoe;

TEST_CASE("normal_cdf against erfc in double", "[core]") {
  double absolute = 0, relative = 0, density_error = 0;
  for (int i = -130000; i <= 130000; ++i) {
    const float x = static_cast<float>(i) * 1e-4f;
    const double exact = 0.5 * std::erfc(-static_cast<double>(x) / std::sqrt(2.0));
    const double bell =
        std::exp(-0.5 * static_cast<double>(x) * x) / std::sqrt(2 * 3.14159265358979323846);
    float density;
    const double found = normal_cdf(x, density);
    absolute = std::max(absolute, std::abs(found - exact));
    if (x > -8) relative = std::max(relative, std::abs(found / exact - 1));
    if (std::abs(x) < 8)
      density_error = std::max(density_error, std::abs(static_cast<double>(density) / bell - 1));
    double d;
    REQUIRE(std::abs(normal_cdf(static_cast<double>(x), d) - exact) <= 1e-15);
    REQUIRE(std::abs(d - bell) <= 1e-15);
  }
  CHECK(absolute < 3e-7);
  CHECK(relative < 2e-6);
  CHECK(density_error < 3e-6);  // x^2 has a rounding error that exp multiplies
  // Far out, and what is no number stays none.
  float density;
  for (const float x : {50.0f, 1e30f, std::numeric_limits<float>::infinity()}) {
    CHECK(normal_cdf(x, density) == 1);
    CHECK(std::abs(normal_cdf(-x, density)) < 1e-36f);
    CHECK(std::abs(density) < 1e-36f);
  }
  CHECK(std::isnan(normal_cdf(std::numeric_limits<float>::quiet_NaN(), density)));
}
