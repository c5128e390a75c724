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

constexpr std::array<double, 4> row = {0.7, -0.4, 0.2, 0.5};

/// Which s, how often, and from which temperature: written here once more.
struct Law {
  const char* router;
  double low, high_chance;
  double temperature = 1;
};

constexpr Law laws[] = {{"sparsemixer", 0.5, 0.5},      {"sparsemixer_v2", 1.0 / 3, 0.25},
                        {"sparsemixer_v2_star", 1.0 / 3, 0.625, 2},
                        {"euler", 1, 1},                {"midpoint", 0.5, 0.5},
                        {"heun", 1.0 / 3, 0.625},       {"reinforce", 1, 1},
                        {"uniform_path", -1, 0.5}};

double chi_squared(const std::vector<double>& counts, const std::vector<double>& expected) {
  double sum = 0;
  for (std::size_t i = 0; i < counts.size(); ++i)
    sum += (counts[i] - expected[i]) * (counts[i] - expected[i]) / expected[i];
  return sum;
}

template <class T>
HostRouting<T> draw_many(PackedStep& step, const std::string& router, int k,
                         const RouterOptions& options) {
  std::vector<T> one;
  for (const double z : row) one.push_back(static_cast<T>(z));
  LoneRouter<T> lone(router, 4, k, options);
  return on_host(lone.route(step, repeated(one, step.tokens())));
}

std::array<double, 4> probabilities(double temperature) {
  std::array<double, 4> p{};
  double sum = 0;
  for (const double z : row) sum += std::exp(z / temperature);
  for (std::size_t e = 0; e < 4; ++e) p[e] = std::exp(row[e] / temperature) / sum;
  return p;
}

}  // namespace

TEMPLATE_TEST_CASE("ordered pairs are drawn without replacement, each round by its softmax",
                   "[router][estimator][sampling]", float, double) {
  PackedStep step(std::vector<int>(32, 1024));
  for (const Law& law : laws) {
    CAPTURE(law.router);
    const auto routing =
        draw_many<TestType>(step, law.router, 2, RouterOptions({{"mask_eps", 0.0}}));
    const auto p = probabilities(law.temperature);
    std::vector<double> counts(16, 0), observed, expected;
    for (std::size_t t = 0; t < step.tokens(); ++t)
      counts[static_cast<std::size_t>(4 * routing.expert[2 * t] + routing.expert[2 * t + 1])] += 1;
    for (std::size_t a = 0; a < 4; ++a)
      for (std::size_t b = 0; b < 4; ++b) {
        if (a == b) {
          CHECK(counts[4 * a + b] == 0);
          continue;
        }
        observed.push_back(counts[4 * a + b]);
        expected.push_back(static_cast<double>(step.tokens()) * p[a] * p[b] / (1 - p[a]));
      }
    CHECK(chi_squared(observed, expected) < 31.26);  // 11 degrees of freedom
  }
}

TEMPLATE_TEST_CASE("scales follow their law in every round, and the exception is one",
                   "[router][estimator][sampling]", float, double) {
  using T = TestType;
  PackedStep step(std::vector<int>(32, 1024));
  for (const Law& law : laws)
    for (const bool exception : {false, true}) {
      CAPTURE(law.router, exception);
      const auto routing = draw_many<T>(
          step, law.router, 2,
          RouterOptions({{"mask_eps", 0.0}, {"argmax_exception", exception}}));
      for (const std::size_t r : {0u, 1u}) {
        double full = 0, tossed = 0, wrong = 0;
        std::vector<double> bins(8, 0);
        for (std::size_t t = 0; t < step.tokens(); ++t) {
          const int e = routing.expert[2 * t + r], before = routing.expert[2 * t];
          const bool best = r == 0 || before != 0 ? e == 0 : e == 3;
          const T s = routing.scale[2 * t + r];
          if (exception && best) {
            if (s != T(1)) ++wrong;
            continue;
          }
          ++tossed;
          if (s == T(1)) {
            ++full;
          } else if (law.low > 0) {
            if (s != static_cast<T>(law.low)) ++wrong;
          } else {
            if (!(s > T(0) && s < T(1))) ++wrong;
            bins[static_cast<std::size_t>(8 * s)] += 1;
          }
        }
        CHECK(wrong == 0);
        const double expected = tossed * law.high_chance;
        CHECK(std::abs(full - expected) <=
              3.29 * std::sqrt(tossed * law.high_chance * (1 - law.high_chance)));
        if (law.low < 0)
          CHECK(chi_squared(bins, std::vector<double>(8, (tossed - full) / 8)) < 24.32);
      }
    }
}

TEST_CASE("the one-hot gates draw the softmax", "[router][estimator][sampling]") {
  PackedStep step(std::vector<int>(32, 1024));
  const auto p = probabilities(1);
  for (const char* router : {"straight_through", "reinmax"}) {
    const auto routing = draw_many<double>(step, router, 1, RouterOptions({{"mask_eps", 0.0}}));
    std::vector<double> counts(4, 0), expected;
    for (std::size_t n = 0; n < routing.weight.size(); ++n)
      counts[n % 4] += routing.weight[n];
    for (const double each : p) expected.push_back(static_cast<double>(step.tokens()) * each);
    CHECK(chi_squared(counts, expected) < 16.27);  // 3 degrees of freedom
  }
}

TEST_CASE("evaluation takes the argmax of each round", "[router][estimator]") {
  PackedStep step({3});
  step.ctx.training = false;
  for (const Law& law : laws) {
    CAPTURE(law.router);
    const auto routing = draw_many<double>(step, law.router, 3, RouterOptions({{"mask_eps", 0.0}}));
    const auto p = probabilities(law.temperature);
    CHECK(routing.expert == std::vector<int>{0, 3, 2, 0, 3, 2, 0, 3, 2});
    CHECK(routing.weight[0] == Approx(p[0]));
    CHECK(routing.weight[1] == Approx(p[3] / (1 - p[0])));
    CHECK(routing.weight[2] == Approx(p[2] / (1 - p[0] - p[3])));
  }
  for (const char* router : {"straight_through", "reinmax"}) {
    const auto routing = draw_many<double>(step, router, 1, {});
    CHECK(routing.expert == std::vector<int>{0, 0, 0});
    CHECK(routing.weight == std::vector<double>{1, 1, 1});
  }
}

TEST_CASE("an estimator says which law it draws from", "[router][estimator]") {
  for (const Law& law : laws) {
    CAPTURE(law.router);
    LoneRouter<double> router(law.router, 4, 1);
    const EstimatorInfo info = router.router().estimator();
    CHECK(info.objective == Objective::scaled);
    CHECK(info.scale.uniform == (law.low < 0));
    CHECK(1 - info.scale.low_chance == Approx(law.high_chance));
    if (law.low > 0 && law.high_chance < 1) CHECK(info.scale.low == Approx(law.low));
    CHECK(info.scale.argmax_exception == (std::string(law.router).rfind("sparsemixer", 0) == 0));
    CHECK(info.needs_sequence_loss == (std::string(law.router) == "reinforce"));
    LoneRouter<double> still(law.router, 4, 1, RouterOptions({{"sampling", false}}));
    CHECK(still.router().estimator().objective == Objective::none);
  }
  for (const char* name : {"straight_through", "reinmax"}) {
    LoneRouter<double> router(name, 4, 1);
    CHECK(router.router().estimator().objective == Objective::plain);
  }
}
