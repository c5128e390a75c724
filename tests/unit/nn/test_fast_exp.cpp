// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/math.hpp"
#include "support/catch.hpp"

#include <cmath>
#include <limits>

using namespace kokomoe;

TEST_CASE("fast_exp in float is within 3e-7 of exp over its whole range", "[nn]") {
  double worst = 0;
  float at = 0;
  // Steps small enough to meet both ends of every reduction interval.
  for (int i = -87 * 20000; i <= 88 * 20000; ++i) {
    const float x = static_cast<float>(i) / 20000.0f;
    const double exact = std::exp(static_cast<double>(x));
    const double error = std::abs(static_cast<double>(fast_exp(x)) / exact - 1);
    if (error > worst) {
      worst = error;
      at = x;
    }
  }
  INFO("worst " << worst << " at " << at);
  CHECK(worst < 3e-7);
}

TEST_CASE("fast_exp is exact at 0, monotonic at the ends and never infinite", "[nn]") {
  CHECK(fast_exp(0.0f) == 1.0f);
  CHECK(fast_exp(-0.0f) == 1.0f);
  for (const float x : {-1e30f, -1000.0f, -100.0f, -std::numeric_limits<float>::infinity(),
                        -std::numeric_limits<float>::max()}) {
    CHECK(fast_exp(x) >= 0.0f);
    CHECK(fast_exp(x) < 2e-38f);
  }
  for (const float x : {89.0f, 1e30f, std::numeric_limits<float>::infinity()}) {
    CHECK(std::isfinite(fast_exp(x)));
    CHECK(fast_exp(x) > 2e38f);
  }
  // A NaN logit must reach the loss, where it is noticed.
  CHECK(std::isnan(fast_exp(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("fast_exp in double is exp", "[nn]") {
  for (const double x : {-700.0, -1.5, 0.0, 0.3, 700.0})
    CHECK(std::abs(fast_exp(x) / std::exp(x) - 1) < 1e-15);
}
