// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/study/study_report.hpp"
#include "support/catch.hpp"

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

using namespace kokomoe;

TEST_CASE("when a curve reaches a value", "[study]") {
  const std::vector<StudyPoint> falling = {{10, 1.0, 5.0}, {20, 3.0, 3.0}, {30, 4.0, 4.0}};
  CHECK(first_reach(falling, 4.0) == std::pair(15.0, 2.0));
  CHECK(first_reach(falling, 6.0) == std::pair(10.0, 1.0));  // from the first evaluation on
  CHECK(first_reach(falling, 3.0) == std::pair(20.0, 3.0));
  CHECK(std::isnan(first_reach(falling, 2.9).first));
  const std::vector<StudyPoint> rising = {{10, 1.0, 0.25}, {20, 3.0, 0.75}, {30, 4.0, 0.5}};
  CHECK(first_reach(rising, 0.5, true) == std::pair(15.0, 2.0));
  CHECK(first_reach(rising, 0.1, true) == std::pair(10.0, 1.0));
  CHECK(std::isnan(first_reach(rising, 0.8, true).second));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(first_reach({{10, 1.0, nan}, {20, 2.0, 1.0}}, 2.0) == std::pair(20.0, 2.0));
}
