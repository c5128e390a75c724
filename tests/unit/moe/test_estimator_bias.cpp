// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// The mean of an estimator over all its outcomes, replayed one by one, against central differences
// of its objective: what a rule's order promises is exact.
#include "support/catch.hpp"
#include "support/lone_router.hpp"

#include <array>
#include <cmath>
#include <functional>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

constexpr std::size_t experts = 4, width = 3;
using Output = std::array<double, width>;

/// E_i(x) and a loss of the output with its gradient.
struct Problem {
  std::vector<double> logits = Draw(21).many<double>(experts, 1.2);
  std::array<Output, experts> expert{};
  std::function<double(const Output&)> f;
  std::function<Output(const Output&)> gradient;

  Problem() {
    Draw draw(22);
    for (Output& output : expert)
      for (double& x : output) x = draw(1.5);
  }
};

/// sum_j c1_j y_j + (c2 . y)^2 + (c3 . y)^3 up to `degree`; more: an exponential and a sine.
Problem problem(int degree) {
  Problem result;
  std::array<Output, 3> c{};
  Draw draw(23);
  for (Output& each : c)
    for (double& x : each) x = draw();
  const auto dot = [](const Output& a, const Output& b) {
    double sum = 0;
    for (std::size_t i = 0; i < width; ++i) sum += a[i] * b[i];
    return sum;
  };
  result.f = [=](const Output& y) {
    if (degree > 3) return std::exp(dot(c[0], y)) + std::sin(2 * dot(c[1], y));
    double sum = dot(c[0], y);
    if (degree > 1) sum += std::pow(dot(c[1], y), 2);
    if (degree > 2) sum += std::pow(dot(c[2], y), 3);
    return sum + 0.3;
  };
  result.gradient = [=](const Output& y) {
    Output g{};
    for (std::size_t i = 0; i < width; ++i) {
      if (degree > 3) {
        g[i] = c[0][i] * std::exp(dot(c[0], y)) + 2 * c[1][i] * std::cos(2 * dot(c[1], y));
        continue;
      }
      g[i] = c[0][i];
      if (degree > 1) g[i] += 2 * dot(c[1], y) * c[1][i];
      if (degree > 2) g[i] += 3 * std::pow(dot(c[2], y), 2) * c[2][i];
    }
    return g;
  };
  return result;
}

std::vector<double> softmax(const std::vector<double>& z) {
  std::vector<double> p;
  double sum = 0;
  for (const double each : z) p.push_back(std::exp(each));
  for (const double each : p) sum += each;
  for (double& each : p) each /= sum;
  return p;
}

/// Every ordered choice of k experts.
std::vector<std::vector<int>> choices(int k) {
  std::vector<std::vector<int>> result{{}};
  for (int r = 0; r < k; ++r) {
    std::vector<std::vector<int>> longer;
    for (const auto& before : result)
      for (int e = 0; e < static_cast<int>(experts); ++e) {
        if (std::find(before.begin(), before.end(), e) != before.end()) continue;
        longer.push_back(before);
        longer.back().push_back(e);
      }
    result = longer;
  }
  return result;
}

/// Probabilities of each round of a choice.
std::vector<double> rounds(const std::vector<double>& p, const std::vector<int>& choice) {
  std::vector<double> result;
  double left = 1;
  for (const int e : choice) {
    result.push_back(p[static_cast<std::size_t>(e)] / left);
    left -= p[static_cast<std::size_t>(e)];
  }
  return result;
}

/// E f(sum p_r E_{D_r}), or of f(E_D) when `plain`.
double objective(const Problem& problem, int k, bool plain, const std::vector<double>& logits) {
  const std::vector<double> p = softmax(logits);
  double mean = 0;
  for (const auto& choice : choices(k)) {
    const std::vector<double> q = rounds(p, choice);
    Output y{};
    double chance = 1;
    for (std::size_t r = 0; r < choice.size(); ++r) {
      chance *= q[r];
      for (std::size_t i = 0; i < width; ++i)
        y[i] += (plain ? 1 : q[r]) * problem.expert[static_cast<std::size_t>(choice[r])][i];
    }
    mean += chance * problem.f(y);
  }
  return mean;
}

std::vector<double> exact(const Problem& problem, int k, bool plain) {
  std::vector<double> result;
  for (std::size_t e = 0; e < experts; ++e) {
    const double h = 1e-3;
    const auto at = [&](double step) {
      std::vector<double> z = problem.logits;
      z[e] += step;
      return objective(problem, k, plain, z);
    };
    result.push_back((8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h));
  }
  return result;
}

/// Nodes and weights of the 8-point Gauss-Legendre rule on (0, 1).
constexpr std::array<std::array<double, 2>, 8> gauss = {
    {{0.01985507175123188, 0.05061426814518813}, {0.10166676129318664, 0.11119051722668724},
     {0.2372337950418355, 0.15685332293894363},  {0.4082826787521751, 0.18134189168918100},
     {0.5917173212478249, 0.18134189168918100},  {0.7627662049581645, 0.15685332293894363},
     {0.8983332387068134, 0.11119051722668724},  {0.9801449282487681, 0.05061426814518813}}};

struct Outcome {
  std::vector<int> choice;
  double scale, chance;  ///< of the coin
};

/// The mean of the router's gradient over choices and coins; one row for each outcome.
std::vector<double> mean_gradient(LoneRouter<double>& router, const Problem& problem, int k) {
  const EstimatorInfo info = router.router().estimator();
  const bool plain = info.objective == Objective::plain;
  std::vector<Outcome> outcomes;
  for (const auto& choice : choices(k)) {
    const double low_chance = info.scale.low_chance;
    outcomes.push_back({choice, 1, 1 - low_chance});
    if (info.scale.uniform)
      for (const auto& node : gauss)
        outcomes.push_back({choice, node[0], low_chance * node[1]});
    else if (low_chance > 0)
      outcomes.push_back({choice, info.scale.low, low_chance});
  }
  const std::size_t rows = outcomes.size(), slots = plain ? experts : choices(k)[0].size();
  PackedStep step(std::vector<int>(rows, 1));
  step.ctx.loss_scale = 1;
  std::vector<int> expert;
  std::vector<double> scale;
  for (const Outcome& outcome : outcomes)
    for (std::size_t i = 0; i < slots; ++i) {
      expert.push_back(plain ? static_cast<int>(i) : outcome.choice[i]);
      scale.push_back(plain ? (outcome.choice[0] == static_cast<int>(i) ? 1 : 0) : outcome.scale);
    }
  Routing<double> replay;
  replay.tokens = static_cast<int>(rows);
  replay.experts = static_cast<int>(experts);
  replay.slots_per_token = static_cast<int>(slots);
  replay.expert = device_vector(expert);
  replay.scale = device_vector(scale);
  const Routing<double> routing = router.route(step, repeated(problem.logits, rows), &replay);
  const std::vector<double> weight = on_host(routing.weight), p = softmax(problem.logits);

  std::vector<double> d_weight, loss, chance;
  for (std::size_t t = 0; t < rows; ++t) {
    Output y{};
    for (std::size_t i = 0; i < slots; ++i)
      for (std::size_t j = 0; j < width; ++j)
        y[j] += weight[t * slots + i] *
                problem.expert[static_cast<std::size_t>(expert[t * slots + i])][j];
    const Output g = problem.gradient(y);
    for (std::size_t i = 0; i < slots; ++i) {
      double inner = 0;
      for (std::size_t j = 0; j < width; ++j)
        inner += g[j] * problem.expert[static_cast<std::size_t>(expert[t * slots + i])][j];
      d_weight.push_back(inner);
    }
    loss.push_back(problem.f(y));
    double product = outcomes[t].chance;
    for (const double q : rounds(p, outcomes[t].choice)) product *= q;
    chance.push_back(product);
  }
  step.ctx.sequence_loss = device_vector(loss);
  const Matrix<double> d_logits("d_logits", rows, experts);
  router.backward(step, routing, d_weight, {}, d_logits);
  const std::vector<double> d = on_host(d_logits);
  std::vector<double> mean(experts, 0);
  for (std::size_t t = 0; t < rows; ++t)
    for (std::size_t e = 0; e < experts; ++e) mean[e] += chance[t] * d[t * experts + e];
  return mean;
}

double error(const std::string& name, int degree, int k = 1, const RouterOptions& options = {}) {
  const Problem here = problem(degree);
  LoneRouter<double> router(name, static_cast<int>(experts), k, options);
  const bool plain = router.router().estimator().objective == Objective::plain;
  return worst_error(mean_gradient(router, here, k), exact(here, k, plain));
}

}  // namespace

TEST_CASE("each rule is exact for polynomials of its order", "[router][estimator][bias]") {
  CHECK(error("euler", 1) < 1e-10);
  CHECK(error("midpoint", 2) < 1e-10);
  CHECK(error("heun", 3) < 1e-10);
  CHECK(error("straight_through", 1) < 1e-10);
  CHECK(error("reinmax", 2) < 1e-10);
  // And for no more.
  CHECK(error("euler", 2) > 1e-3);
  CHECK(error("midpoint", 3) > 1e-3);
  CHECK(error("heun", 4) > 1e-6);
  CHECK(error("straight_through", 2) > 1e-3);
  CHECK(error("reinmax", 3) > 1e-3);
  CHECK(error("euler", 1, 1, RouterOptions({{"grad_factor", 1.0}})) > 1e-2);
}

TEST_CASE("v2* without exception and temperature is Heun's rule", "[router][estimator][bias]") {
  const RouterOptions options({{"argmax_exception", false}, {"temperature", 1.0}});
  CHECK(error("sparsemixer_v2_star", 3, 1, options) < 1e-10);
  CHECK(error("sparsemixer", 2, 1, RouterOptions({{"argmax_exception", false}})) < 1e-10);
}

TEST_CASE("uniform_path and reinforce have no bias for a smooth loss",
          "[router][estimator][bias]") {
  CHECK(error("uniform_path", 4) < 1e-9);
  CHECK(error("reinforce", 4) < 1e-9);
  CHECK(error("reinforce", 4, 2) < 1e-9);
  CHECK(error("reinforce", 4, static_cast<int>(experts)) < 1e-9);
}

TEST_CASE("a baseline leaves reinforce without bias and changes its single gradients",
          "[router][estimator][bias]") {
  const Problem here = problem(4);
  LoneRouter<double> router("reinforce", static_cast<int>(experts), 1);
  const auto before = mean_gradient(router, here, 1);
  Communicator alone;
  StepContext ctx;
  ctx.communicator = &alone;
  router.router().end_step(ctx, {});
  const auto after = mean_gradient(router, here, 1);
  CHECK(worst_error(after, exact(here, 1, false)) < 1e-9);
  CHECK(worst_error(after, before) < 1e-9);
  CHECK(after != before);
}
