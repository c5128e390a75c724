// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/math.hpp"
#include "kokomoe/core/philox.hpp"
#include "support/catch.hpp"
#include "support/reference_file.hpp"

#include <cmath>
#include <set>
#include <string>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

const kokomoe::testing::ReferenceFile& reference() {
  static const kokomoe::testing::ReferenceFile file(KOKOMOE_TEST_FOLDER "/reference/routers.kkref");
  return file;
}

std::uint32_t u32(std::int64_t value) {
  return static_cast<std::uint32_t>(value);
}

/// Uniforms of one purpose in a set against the file, bit for bit.
template <class T>
void check_uniforms(const std::string& set, const std::string& record, Purpose purpose) {
  const auto& file = reference();
  const auto sequence = file.i8(set + "/sequence_index"), position = file.i8(set + "/position");
  const PhiloxStream stream(static_cast<std::uint64_t>(file.i8(set + "/seed")[0]), purpose,
                            static_cast<std::uint64_t>(file.i8(set + "/step")[0]),
                            u32(file.i8(set + "/layer")[0]), 0);
  const auto expected = file.template real<T>(set + "/" + record);
  REQUIRE(!expected.empty());
  const std::size_t draws = expected.size() / sequence.size();
  std::size_t wrong = 0;
  for (std::size_t t = 0; t < sequence.size(); ++t)
    for (std::size_t i = 0; i < draws; ++i) {
      const T u = stream.template uniform<T>(u32(sequence[t]), u32(position[t]),
                                             static_cast<std::uint32_t>(i));
      if (u != expected[t * draws + i]) ++wrong;
    }
  CAPTURE(set, record);
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("philox gives Random123's known answers", "[philox][reference]") {
  int cases = 0;
  for (; reference().has("philox/" + std::to_string(cases) + "/words"); ++cases) {
    const std::string name = "philox/" + std::to_string(cases);
    const auto c = reference().i8(name + "/counter"), k = reference().i8(name + "/key"),
               words = reference().i8(name + "/words");
    const PhiloxBlock block =
        philox(u32(c[0]), u32(c[1]), u32(c[2]), u32(c[3]), u32(k[0]), u32(k[1]));
    for (std::size_t i = 0; i < 4; ++i) CHECK(block.word[i] == u32(words[i]));
  }
  CHECK(cases >= 3);
}

TEMPLATE_TEST_CASE("a token's draws are the reference's, bit for bit", "[philox][reference]", float,
                   double) {
  const std::string type = std::is_same_v<TestType, float> ? "/f4" : "/f8";
  for (const char* set : {"random_e4", "random_e3", "random_e16", "degenerate_e4", "one_token"}) {
    check_uniforms<TestType>(set + type, "uniform_gumbel", Purpose::gumbel);
    check_uniforms<TestType>(set + type, "uniform_coin", Purpose::coin);
    check_uniforms<TestType>(set + type, "uniform_jitter", Purpose::jitter);
  }
}

TEST_CASE("uniforms stay inside the open interval", "[philox]") {
  for (const std::uint32_t bits : {0u, 1u, 511u, 512u, 0x7fffffffu, 0xfffffffeu, 0xffffffffu}) {
    CHECK(open_uniform<float>(bits) > 0.0f);
    CHECK(open_uniform<float>(bits) < 1.0f);
    CHECK(open_uniform<double>(bits) > 0.0);
    CHECK(open_uniform<double>(bits) < 1.0);
    CHECK(std::isfinite(std::log(-std::log(open_uniform<float>(bits)))));
  }
}

TEST_CASE("every index of a draw changes it", "[philox]") {
  std::set<double> draws;
  int count = 0;
  const auto add = [&](const PhiloxStream& stream, std::uint32_t sequence, std::uint32_t position,
                       std::uint32_t draw, std::uint32_t lane) {
    draws.insert(stream.uniform<double>(sequence, position, draw, lane));
    ++count;
  };
  const PhiloxStream base(5, Purpose::gumbel, 7, 2, 0);
  add(base, 3, 4, 0, 0);
  for (std::uint32_t draw = 1; draw < 9; ++draw) add(base, 3, 4, draw, 0);
  add(base, 3, 4, (1u << 18) - 1, 0);
  add(base, 4, 4, 0, 0);
  add(base, 3, 5, 0, 0);
  add(base, 3, (1u << 24) - 1, 0, 0);
  add(base, 3, 4, 0, 1);
  add(base, 3, 4, 0, 65535);
  add(PhiloxStream(6, Purpose::gumbel, 7, 2, 0), 3, 4, 0, 0);
  add(PhiloxStream(5 + (1ull << 39), Purpose::gumbel, 7, 2, 0), 3, 4, 0, 0);
  add(PhiloxStream(5, Purpose::coin, 7, 2, 0), 3, 4, 0, 0);
  add(PhiloxStream(5, Purpose::gumbel, 8, 2, 0), 3, 4, 0, 0);
  add(PhiloxStream(5, Purpose::gumbel, 7, 255, 0), 3, 4, 0, 0);
  add(PhiloxStream(5, Purpose::gumbel, 7, 2, 65535), 3, 4, 0, 0);
  CHECK(draws.size() == static_cast<std::size_t>(count));
}

TEST_CASE("names hash by FNV-1a", "[philox]") {
  CHECK(name_hash("") == 0xcbf29ce484222325ull);
  CHECK(name_hash("a") == 0xaf63dc4c8601ec8cull);
  CHECK(name_hash("foobar") == 0x85944171f73967e8ull);
}

TEST_CASE("the vectorised exp keeps its error and its limits", "[math]") {
  double worst = 0;
  for (int i = 0; i <= 100000; ++i) {
    const float x = -87.0f + 175.0f * static_cast<float>(i) / 100000;
    const double exact = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::abs(static_cast<double>(fast_exp(x)) - exact) / exact);
  }
  CHECK(worst < 3e-7);
  CHECK(fast_exp(0.0f) == 1.0f);
  CHECK(fast_exp(-1e30f) < 2e-38f);
  CHECK(fast_exp(-1e30f) >= 0.0f);
  CHECK(std::isfinite(fast_exp(1e30f)));
  CHECK(fast_exp(1.0) == std::exp(1.0));
}
