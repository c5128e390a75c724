// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/gemm_rate.hpp"
#include "support/catch.hpp"

#include <chrono>
#include <cmath>

using namespace kokomoe;

TEST_CASE("the GEMM rate is a number and found in about the time it is given", "[core]") {
  const ExecutionSpace space;
  const auto start = std::chrono::steady_clock::now();
  const double single = measure_gemm_rate<float>(space, 0.02);
  const double exact = measure_gemm_rate<double>(space, 0.02);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  CHECK(std::isfinite(single));
  CHECK(single > 1e6);
  CHECK(exact > 1e6);
  CHECK(seconds < 30);  // whatever the machine does beside
}
