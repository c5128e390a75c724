// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// Seeds are fixed, so these tests pass or fail for good; the bounds are the 0.1 % points, which a
// correct sampler exceeds once in a thousand seeds.
#include "support/catch.hpp"
#include "support/lone_router.hpp"

#include <array>
#include <cmath>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

// m = 1: 0.7 and -2 are more than 2 mask_eps = 0.2 away, the other four are kept.
constexpr std::array<double, 6> row = {0.95, 0.7, 1.0, 0.81, -2.0, 0.87};
constexpr std::array<std::size_t, 4> kept = {0, 2, 3, 5};
constexpr std::size_t best = 2;

/// 0 for masked experts.
std::array<double, 6> probabilities() {
  std::array<double, 6> p{};
  double sum = 0;
  for (const std::size_t e : kept) sum += std::exp(row[e]);
  for (const std::size_t e : kept) p[e] = std::exp(row[e]) / sum;
  return p;
}

double chi_squared(const std::vector<double>& counts, const std::vector<double>& expected) {
  double sum = 0;
  for (std::size_t i = 0; i < counts.size(); ++i)
    sum += (counts[i] - expected[i]) * (counts[i] - expected[i]) / expected[i];
  return sum;
}

template <class T>
std::vector<T> logits(std::size_t tokens) {
  std::vector<T> one;
  for (const double z : row) one.push_back(static_cast<T>(z));
  return repeated(one, tokens);
}

template <class T>
void check_choices(const std::vector<int>& expert) {
  const auto p = probabilities();
  const auto n = static_cast<double>(expert.size());
  std::array<double, 6> count{};
  for (const int e : expert) count[static_cast<std::size_t>(e)] += 1;
  CHECK(count[1] == 0);
  CHECK(count[4] == 0);
  std::vector<double> observed, expected;
  for (const std::size_t e : kept) {
    observed.push_back(count[e]);
    expected.push_back(n * p[e]);
  }
  CHECK(chi_squared(observed, expected) < 16.27);  // 3 degrees of freedom
}

}  // namespace

TEMPLATE_TEST_CASE("sparsemixer draws experts with the masked probabilities", "[router][sampling]",
                   float, double) {
  using T = TestType;
  PackedStep step(std::vector<int>(64, 1024));
  LoneRouter<T> router("sparsemixer", 6, 1);
  const auto routing = on_host(router.route(step, logits<T>(step.tokens())));
  check_choices<T>(routing.expert);
  const auto p = probabilities();
  for (std::size_t e = 0; e < 6; ++e)
    CHECK(static_cast<double>(routing.probability[e]) == Approx(p[e]).epsilon(1e-6));

  SECTION("and neighbours draw independently") {
    std::vector<double> pairs(16, 0), expected;
    const auto place = [](int e) { return e == 0 ? 0u : e == 2 ? 1u : e == 3 ? 2u : 3u; };
    for (std::size_t t = 0; t + 1 < routing.expert.size(); t += 2)
      pairs[4 * place(routing.expert[t]) + place(routing.expert[t + 1])] += 1;
    for (const std::size_t a : kept)
      for (const std::size_t b : kept)
        expected.push_back(static_cast<double>(routing.expert.size() / 2) * p[a] * p[b]);
    CHECK(chi_squared(pairs, expected) < 37.70);  // 15 degrees of freedom
  }
}

TEMPLATE_TEST_CASE("a token's draws over steps and replicas have the same frequencies",
                   "[router][sampling]", float, double) {
  using T = TestType;
  PackedStep step({16});
  LoneRouter<T> router("sparsemixer", 6, 1, {}, 3);
  std::vector<int> expert;
  for (unsigned s = 0; s < 32; ++s)
    for (unsigned replica = 0; replica < 32; ++replica) {
      step.ctx.step = 1000 + s;
      step.ctx.replica = replica;
      const auto routing = on_host(router.route(step, logits<T>(16)));
      expert.insert(expert.end(), routing.expert.begin(), routing.expert.end());
    }
  check_choices<T>(expert);
}

TEMPLATE_TEST_CASE("sparsemixer's coin is fair, and the argmax takes none", "[router][sampling]",
                   float, double) {
  using T = TestType;
  PackedStep step(std::vector<int>(64, 1024));
  LoneRouter<T> router("sparsemixer", 6, 1);
  const auto routing = on_host(router.route(step, logits<T>(step.tokens())));
  double halves = 0, others = 0, wrong = 0;
  for (std::size_t t = 0; t < routing.expert.size(); ++t) {
    const auto e = static_cast<std::size_t>(routing.expert[t]);
    const T scale = routing.scale[t];
    if (scale != T(1) && scale != T(0.5)) ++wrong;
    if (routing.weight[t] != scale * routing.probability[6 * t + e]) ++wrong;
    if (e == best) {
      if (scale != T(1)) ++wrong;
    } else {
      others += 1;
      if (scale == T(0.5)) halves += 1;
    }
  }
  CHECK(wrong == 0);
  CHECK(std::abs(halves - others / 2) < 3.29 * std::sqrt(others / 4));
}

TEMPLATE_TEST_CASE("without the exception the coin is fair whatever was drawn",
                   "[router][sampling]", float, double) {
  using T = TestType;
  PackedStep step(std::vector<int>(64, 1024));
  LoneRouter<T> router("sparsemixer", 6, 1, RouterOptions({{"argmax_exception", false}}));
  const auto routing = on_host(router.route(step, logits<T>(step.tokens())));
  std::array<double, 6> halves{}, count{};
  for (std::size_t t = 0; t < routing.expert.size(); ++t) {
    const auto e = static_cast<std::size_t>(routing.expert[t]);
    count[e] += 1;
    if (routing.scale[t] == T(0.5)) halves[e] += 1;
  }
  double chi2 = 0;
  for (const std::size_t e : kept)
    chi2 += (halves[e] - count[e] / 2) * (halves[e] - count[e] / 2) / (count[e] / 4);
  CHECK(chi2 < 18.47);  // 4 degrees of freedom
}

TEMPLATE_TEST_CASE("equal logits are drawn evenly", "[router][sampling]", float, double) {
  using T = TestType;
  PackedStep step(std::vector<int>(16, 1024));
  const double n = static_cast<double>(step.tokens());
  for (const double level : {0.0, -1.5, 3.0}) {
    LoneRouter<T> router("sparsemixer", 8, 1);
    const auto routing =
        on_host(router.route(step, std::vector<T>(8 * step.tokens(), static_cast<T>(level))));
    std::vector<double> count(8, 0);
    for (const int e : routing.expert) count[static_cast<std::size_t>(e)] += 1;
    CAPTURE(level);
    CHECK(chi_squared(count, std::vector<double>(8, n / 8)) < 24.32);  // 7 degrees of freedom
    CHECK(routing.probability == std::vector<T>(8 * step.tokens(), T(0.125)));
  }
}

TEMPLATE_TEST_CASE("a choice depends on the token, not on its place in the batch",
                   "[router][sampling]", float, double) {
  using T = TestType;
  PackedStep whole({5, 9, 3});
  LoneRouter<T> router("sparsemixer", 6, 1);
  const auto all = on_host(router.route(whole, logits<T>(17)));
  // Sequence 1 alone: the same indices at other places.
  std::vector<int> position;
  for (int i = 0; i < 9; ++i) position.push_back(i);
  PackedStep part({}, {}, {0, 9}, std::vector<std::uint32_t>(9, 10), position);
  const auto alone = on_host(router.route(part, logits<T>(9)));
  CHECK(alone.expert == std::vector<int>(all.expert.begin() + 5, all.expert.begin() + 14));
  CHECK(alone.weight == std::vector<T>(all.weight.begin() + 5, all.weight.begin() + 14));
}
