// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "../../../src/train/wall_reserve.hpp"
#include "support/catch.hpp"

using namespace kokomoe;
using namespace kokomoe::test;

TEST_CASE("before the first save and evaluation their time is guessed", "[train][run_control]") {
  detail::WallReserve reserve(3e8, 5000);
  // A second, and 300 MB at 100 MB/s.
  CHECK(reserve.seconds(false) == Approx(4));
  reserve.step_took(0.5, 1000);
  CHECK(reserve.step_seconds() == Approx(0.5));
  CHECK(reserve.seconds(false) == Approx(1 + 4));
  // 5000 tokens, each in half of a step's time for one.
  CHECK(reserve.seconds(true) == Approx(1 + 4 + 1.25));
}

TEST_CASE("what was measured takes the place of a guess", "[train][run_control]") {
  detail::WallReserve reserve(3e8, 5000);
  reserve.step_took(0.5, 1000);
  reserve.step_took(1.5, 1000);
  CHECK(reserve.step_seconds() == Approx(0.6));
  reserve.evaluation_took(0.25);
  reserve.save_took(9);
  CHECK(reserve.seconds(false) == Approx(1.2 + 9));
  CHECK(reserve.seconds(true) == Approx(1.2 + 0.25 + 9));
  reserve.save_took(2);
  CHECK(reserve.seconds(false) == Approx(1.2 + 2));
}
