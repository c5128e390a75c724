// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/kept_rows.hpp"
#include "support/bfloat16.hpp"
#include "support/catch.hpp"
#include "support/host_arrays.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

float rounded(float x) {
  return static_cast<float>(Bfloat16(x));
}

}  // namespace

TEST_CASE("bfloat16 is the nearest, ties to even", "[core]") {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> mantissa(1, 2);
  std::uniform_int_distribution<int> exponent(-126, 126);
  for (int i = 0; i < 200000; ++i) {
    const float x = std::ldexp(mantissa(random), exponent(random)) * (i % 2 == 0 ? 1.0f : -1.0f);
    REQUIRE(static_cast<double>(rounded(x)) == nearest_bfloat16(x));
  }
  // Ties: 257/256 lies between 1 and 1 + 1/128, 259/256 between that and 1 + 2/128.
  CHECK(rounded(257.0f / 256) == 1.0f);
  CHECK(rounded(259.0f / 256) == 1.0f + 2.0f / 128);
  CHECK(rounded(-257.0f / 256) == -1.0f);
  // Numbers of eight bits stay, and so does what is none.
  for (const float x : {0.0f, 1.0f, -0.5f, 255.0f, 3.0f}) CHECK(rounded(x) == x);
  CHECK(std::signbit(rounded(-0.0f)));
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(rounded(infinity) == infinity);
  CHECK(rounded(-infinity) == -infinity);
  CHECK(rounded(std::numeric_limits<float>::max()) == infinity);
  CHECK(std::isnan(rounded(std::numeric_limits<float>::quiet_NaN())));
  CHECK(std::isnan(rounded(-std::numeric_limits<float>::signaling_NaN())));
  // The smallest there are: multiples of 2^-133.
  CHECK(rounded(std::ldexp(1.0f, -133)) == std::ldexp(1.0f, -133));
  CHECK(rounded(std::ldexp(1.0f, -134)) == 0.0f);
  CHECK(rounded(std::ldexp(3.0f, -134)) == std::ldexp(1.0f, -132));
}

TEMPLATE_TEST_CASE("rows are kept as they are, or rounded in half of the memory", "[core]", float,
                   double) {
  using T = TestType;
  const ExecutionSpace space;
  const auto numbers = Draw(3).many<T>(19 * 37);
  for (const bool rounds : {false, true}) {
    CAPTURE(rounds);
    Arena saved("saved"), scratch("scratch");
    const KeptRows<T> kept(saved, 19, 37, rounds);
    CHECK(kept.bytes() == 19 * 37 * (rounds ? 2 : sizeof(T)));
    CHECK(saved.mark().used >= kept.bytes());
    CHECK(saved.mark().used < kept.bytes() + 64);
    const Matrix<T> written = kept.begin(scratch);
    CHECK((written.data() == kept.wide().data()) == !rounds);
    fill_device(written, numbers);
    kept.keep(space, written);
    CHECK(on_host(written) == numbers);
    const auto expected = [&](std::size_t i) {
      return rounds ? static_cast<T>(nearest_bfloat16(static_cast<float>(numbers[i]))) : numbers[i];
    };
    const auto whole = on_host(kept.read(space, scratch));
    for (std::size_t i = 0; i < numbers.size(); ++i) REQUIRE(whole[i] == expected(i));
    const auto some = on_host(kept.part(3, 8).read(space, scratch));
    REQUIRE(some.size() == 5 * 37);
    for (std::size_t i = 0; i < some.size(); ++i) REQUIRE(some[i] == expected(3 * 37 + i));
    kept.keep(space, written, true);
    CHECK(on_host(written) == whole);
    CHECK(KeptRows<T>(saved, 0, 37, rounds).read(space, scratch).extent(0) == 0);
  }
}
