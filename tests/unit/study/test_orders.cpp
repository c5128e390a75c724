// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/study/fidelity.hpp"
#include "kokomoe/study/detail/problem.hpp"
#include "support/catch.hpp"

#include <cmath>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

FidelityConfig small_config() {
  FidelityConfig config;
  config.estimators = estimator_names();
  config.experts = {3, 6};
  config.k = {1};
  config.layouts = {SiteLayout::one};
  config.scales = {1.0 / 16, 1.0 / 32, 1.0 / 64, 1.0 / 128};
  config.problems = 8;
  return config;
}

const FidelityResult& row(const std::vector<FidelityResult>& results, const std::string& name,
                          bool exception) {
  for (const FidelityResult& result : results)
    if (result.estimator == name && result.argmax_exception == exception) return result;
  FAIL("no row for " << name);
  return results[0];
}

struct Expected {
  const char* name;
  bool exception;
  double order, scaled;  ///< negative: exact
};

}  // namespace

// What the papers derive, and what an independent computation found: docs/estimators.md.
TEST_CASE("orders of the estimators at one site", "[study]") {
  const std::vector<FidelityResult> results = fidelity_orders(small_config());
  const Expected table[] = {
      {"conventional", false, 0, 1},   {"sparsemixer_v2", false, 0, 1},
      {"sparsemixer_v2", true, 0, 1},  {"euler", false, 1, 1},
      {"midpoint", false, 2, 2},       {"midpoint", true, 1, 1},
      {"sparsemixer", true, 1, 1},     {"heun", false, 3, 3},
      {"heun", true, 1, 1},            {"sparsemixer_v2_star", true, 1, 1},
      {"uniform_path", false, -1, -1}, {"uniform_path", true, 1, 1},
      {"straight_through", false, 1, 1}, {"reinmax", false, 2, 2},
      {"reinforce", false, -1, -1}};
  for (const Expected& expected : table) {
    const FidelityResult& result = row(results, expected.name, expected.exception);
    INFO(expected.name << (expected.exception ? " with the exception" : ""));
    if (expected.order < 0) {
      CHECK(!result.order);
      CHECK(result.relative_error < 1e-10);
      continue;
    }
    REQUIRE(result.order);
    REQUIRE(result.scaled_order);
    CHECK(std::abs(*result.order - expected.order) < 0.1);
    // Fewer problems than the deck's: medians over sixteen.
    CHECK(std::abs(*result.scaled_order - expected.scaled) < 0.2);
  }
  // Conventional misses half, and Euler's rule finds it.
  CHECK(std::abs(row(results, "conventional", false).relative_error - 0.5) < 0.02);
  CHECK(row(results, "conventional", false).scaled_error < 0.05);
  CHECK(row(results, "midpoint", false).relative_error <
        0.1 * row(results, "euler", false).relative_error);
}

TEST_CASE("two perturbed sites cost an order", "[study]") {
  FidelityConfig config = small_config();
  config.estimators = {"euler", "midpoint", "heun", "uniform_path", "reinforce"};
  config.experts = {3};
  config.layouts = {SiteLayout::tokens, SiteLayout::layers};
  const std::vector<FidelityResult> all = fidelity_orders(config);
  for (const char* layout : {"tokens", "layers"}) {
    std::vector<FidelityResult> results;
    for (const FidelityResult& result : all)
      if (result.layout == layout) results.push_back(result);
    INFO(layout);
    const double euler = row(results, "euler", false).relative_error;
    for (const char* name : {"midpoint", "heun", "uniform_path"}) {
      INFO(name);
      REQUIRE(row(results, name, false).order);
      CHECK(std::abs(*row(results, name, false).order - 1) < 0.2);
      CHECK(row(results, name, false).relative_error < euler);
    }
    CHECK(row(results, "reinforce", false).relative_error < 1e-10);
  }
}

TEST_CASE("drawing agrees with enumerating", "[study]") {
  FidelityConfig config = small_config();
  config.mode = FidelityConfig::Mode::spread;
  config.estimators = {"conventional", "midpoint", "uniform_path", "straight_through"};
  config.experts = {4};
  config.problems = 1;
  config.samples = 20000;
  config.scales = {0.25};
  for (const FidelityResult& result : fidelity_spread(config)) {
    INFO(result.estimator << " exception " << result.argmax_exception);
    REQUIRE(result.variance);
    // The sampled mean lies within four standard errors of the enumerated one.
    CHECK(std::abs(result.relative_error - *result.bias) <
          4 * std::sqrt(*result.variance / config.samples));
    CHECK(*result.mse > *result.bias * *result.bias);
  }
}

// The exact gradient is the reference of all others: check it by a closed form.
TEST_CASE("the exact gradient of a problem, term by term", "[study]") {
  const int experts = 4, channels = 3;
  study::Problem problem(SiteLayout::one, experts, channels, 7);
  problem.set_scale(0.3);
  const std::vector<double> z = problem.logits(0), out = problem.outputs(0, {});
  std::vector<double> p(experts), value(experts), d_y;
  double sum = 0, mean = 0;
  for (int e = 0; e < experts; ++e) sum += p[e] = std::exp(z[e]);
  for (int e = 0; e < experts; ++e) {
    p[e] /= sum;
    std::vector<double> y(channels);
    for (int c = 0; c < channels; ++c) y[c] = p[e] * out[e * channels + c];
    value[e] = problem.loss(y, {}, &d_y);
    for (int c = 0; c < channels; ++c) value[e] += d_y[c] * y[c];
    mean += p[e] * value[e];
  }
  const std::vector<double> exact = problem.gradient(Objective::scaled, 1);
  for (int e = 0; e < experts; ++e)
    CHECK(exact[e] == Approx(p[e] * (value[e] - mean)).epsilon(1e-10).margin(1e-12));
}

TEST_CASE("unknown estimators are refused with the nearest name", "[study]") {
  CHECK_THAT(message_of<InputError>([] { estimator_form("midpont", false); }),
             contains("midpoint"));
  CHECK_THAT(message_of<InputError>([] { estimator_form("switch", false); }),
             contains("known: conventional"));
}
