// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// Gradients of the auxiliary losses are held against differences in test_moe_layer_gradients.cpp.
#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/auxiliary_loss.hpp"
#include "support/catch.hpp"
#include "support/host_arrays.hpp"
#include "support/packed_step.hpp"

#include <cmath>

using namespace kokomoe;
using namespace kokomoe::test;

TEMPLATE_TEST_CASE("statistics are counts, probability sums and squares", "[auxiliary]", float,
                   double) {
  using T = TestType;
  constexpr std::size_t experts = 3;
  for (const std::size_t tokens : {0u, 1u, 300u})
    for (const bool squares : {true, false}) {
      const auto p = Draw(1).many<T>(tokens * experts), z = Draw(2).many<T>(tokens * experts, 30);
      const Vector<double> statistics("statistics", LoadStatistics::width(experts));
      Kokkos::deep_copy(statistics, -1.0);
      PackedStep step({static_cast<int>(tokens)});
      gather_statistics<T>(step.ctx, device_vector(std::vector<int>{5, 0, 2}),
                           device_matrix(tokens, experts, p), device_matrix(tokens, experts, z),
                           squares, statistics);
      std::vector<double> expected{5, 0, 2, 0, 0, 0, 0, 0};
      for (std::size_t t = 0; t < tokens; ++t) {
        double sum = 0;
        for (std::size_t e = 0; e < experts; ++e) {
          expected[3 + e] += static_cast<double>(p[t * experts + e]);
          sum += std::exp(static_cast<double>(z[t * experts + e]));
        }
        if (squares) expected[6] += std::log(sum) * std::log(sum);
      }
      CAPTURE(tokens, squares);
      CHECK(worst_error(on_host(statistics), expected) < (std::is_same_v<T, float> ? 2e-6 : 1e-14));
    }
}

TEST_CASE("statistics refuse another width", "[auxiliary]") {
  PackedStep step({2});
  CHECK_THROWS_AS(gather_statistics<float>(step.ctx, Vector<int>("counts", 3),
                                           Matrix<float>("p", 2, 3), Matrix<float>("z", 2, 3), true,
                                           Vector<double>("statistics", 6)),
                  Error);
}

TEST_CASE("a balanced load has balance 1, full entropy and nobody dead", "[auxiliary]") {
  const LoadMetrics metrics = load_metrics(std::vector<double>{5, 5, 5, 5, 5, 5, 5, 5, 40, 0}, 4, 20);
  CHECK(metrics.balance == Approx(1));
  CHECK(metrics.entropy == Approx(std::log(4.0)));
  CHECK(metrics.largest_over_mean == Approx(1));
  CHECK(metrics.dead == 0);
  CHECK(metrics.z_square == Approx(2));
  CHECK(metrics.counts == std::vector<double>{5, 5, 5, 5});
}

TEST_CASE("a collapsed load shows", "[auxiliary]") {
  // All of 10 tokens to expert 1, with probability 0.8 each.
  const LoadMetrics metrics = load_metrics(std::vector<double>{0, 10, 0, 1, 8, 1, 0, 0}, 3, 10);
  CHECK(metrics.balance == Approx(3 * 0.8));
  CHECK(metrics.entropy == 0);
  CHECK(metrics.largest_over_mean == Approx(3));
  CHECK(metrics.dead == 2);
}

TEST_CASE("k experts a token count as fractions of all assignments", "[auxiliary]") {
  // 10 tokens, k = 2: f = (1/2, 1/4, 1/4), P = (0.6, 0.2, 0.2).
  const LoadMetrics metrics = load_metrics(std::vector<double>{10, 5, 5, 6, 2, 2, 0, 0}, 3, 10);
  CHECK(metrics.balance == Approx(3 * (0.5 * 0.6 + 0.25 * 0.2 + 0.25 * 0.2)));
  CHECK(metrics.largest_over_mean == Approx(1.5));
}

TEST_CASE("without tokens all metrics are zero", "[auxiliary]") {
  const LoadMetrics metrics = load_metrics(std::vector<double>(8, 0), 3, 0);
  CHECK(metrics.counts == std::vector<double>(3, 0));
  CHECK(metrics.balance == 0);
  CHECK(metrics.z_square == 0);
  CHECK(metrics.entropy == 0);
  CHECK(metrics.largest_over_mean == 0);
  CHECK(metrics.dead == 0);
}

TEST_CASE("the balance gradient follows global counts, and is zero without any", "[auxiliary]") {
  const Matrix<double> gradient("gradient", 2, 3);
  balance_gradient<double>(ExecutionSpace(), 0.5, device_vector(std::vector<double>{6, 3, 1}), 40,
                           gradient);
  std::vector<double> expected;
  for (int t = 0; t < 2; ++t)
    for (const double f : {0.6, 0.3, 0.1}) expected.push_back(0.5 * 3 * f / 40);
  CHECK(worst_error(on_host(gradient), expected) < 1e-15);
  balance_gradient<double>(ExecutionSpace(), 0.5, device_vector(std::vector<double>(3, 0)), 40,
                           gradient);
  CHECK(largest(on_host(gradient)) == 0);
}

TEST_CASE("the z-loss gradient overwrites, and zeroes columns past the experts", "[auxiliary]") {
  const auto z = std::vector<double>{1, 2, 50, -700, 0, 9};
  const auto views = device_matrix(2, 3, z);
  for (const double c : {0.0, 0.25}) {
    const auto gradient = device_matrix(2, 3, std::vector<double>(6, std::nan("")));
    z_loss_gradient<double>(ExecutionSpace(), c, views, 2, 10, gradient);
    const auto got = on_host(gradient);
    const double lse = std::log(std::exp(1.0) + std::exp(2.0));
    CHECK(got[0] == Approx(2 * c * lse * std::exp(1 - lse) / 10));
    CHECK(got[1] == Approx(2 * c * lse * std::exp(2 - lse) / 10));
    CHECK(got[2] == 0);
    for (const std::size_t i : {3, 4, 5}) CHECK(got[i] == 0);  // lse = 0 there
  }
}
