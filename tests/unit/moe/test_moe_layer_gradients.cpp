// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// MoeLayer::backward against central differences in double, with the routing replayed: choices,
// masks and coins stay while weights and probabilities follow the logits.
#include "support/catch.hpp"
#include "support/layer_rig.hpp"

#include <cmath>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// sum <dy, y> + balance + z-loss, written out here once more.
double loss(LayerRig<double>& rig, const Routing<double>& recorded) {
  rig.forward(&recorded);
  const MoeConfig& config = rig.layer.config();
  const auto experts = static_cast<std::size_t>(config.experts);
  const auto y = on_host(rig.y), dy = on_host(rig.dy), z = on_host(rig.saved.logits),
             p = on_host(rig.saved.routing.balance_probability.extent(0) != 0
                             ? rig.saved.routing.balance_probability
                             : rig.saved.routing.probability);
  double sum = 0;
  for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
  const std::vector<int> expert = on_host(recorded.expert);
  const std::vector<unsigned char> counted = on_host(recorded.counted);
  std::vector<double> count(experts, 0);
  double assignments = 0;
  for (std::size_t n = 0; n < expert.size(); ++n) {
    const double one = counted.empty() || counted[n] != 0 ? 1 : 0;
    count[static_cast<std::size_t>(expert[n])] += one;
    assignments += one;
  }
  for (std::size_t t = 0; t < rig.step.tokens(); ++t) {
    double exponentials = 0;
    for (std::size_t e = 0; e < experts; ++e) {
      const double f = count[e] / assignments;
      sum += config.balance * config.experts * f * p[t * experts + e] / rig.step.ctx.update_tokens;
      exponentials += std::exp(z[t * experts + e]);
    }
    const double lse = std::log(exponentials);
    sum += config.z_loss * lse * lse / rig.step.ctx.update_tokens;
  }
  return sum;
}

/// Every parameter's and the input's gradient. `scale`: replaces the recorded coins.
void check_gradients(const MoeConfig& config, double scale = 0) {
  LayerRig<double> rig(config, {6, 1, 5});
  // As much as the baseline: nothing to learn from the score.
  rig.step.ctx.sequence_loss = Vector<double>("losses", 3);
  if (config.router == "reinforce")
    Kokkos::deep_copy(rig.store.value_vector(rig.store.find("moe.router.baseline")), 0.0);
  rig.forward();
  const Routing<double> recorded = rig.saved.routing.clone(ExecutionSpace());
  if (scale != 0) Kokkos::deep_copy(recorded.scale, scale);
  rig.store.begin_update();
  rig.forward(&recorded);
  rig.backward();
  const auto again = [&] { return loss(rig, recorded); };
  CAPTURE(config.router, config.k, to_string(config.activation), config.bias, config.output_gain,
          config.balance, config.z_loss, scale);
  const auto dx = on_host(rig.dx);
  for (const auto& entry : rig.store.entries()) {
    if (entry.spec.state) continue;
    const auto handle = rig.store.find(entry.spec.name);
    const auto analytic = on_host(rig.store.gradient_vector(handle));
    CAPTURE(entry.spec.name);
    CHECK(largest(analytic) > 1e-3);
    CHECK(worst_difference(rig.store.value_vector(handle), analytic, again, 60) < 1e-7);
  }
  CHECK(worst_difference(rig.x, dx, again, 60) < 1e-7);
}

MoeConfig with_losses(MoeConfig config) {
  config.balance = 3;
  config.z_loss = 0.5;
  config.bias = true;
  config.output_gain = true;
  config.activation = Activation::swiglu;
  return config;
}

}  // namespace

TEST_CASE("backward through experts, biases and gain is the derivative", "[layer][gradient]") {
  for (const Activation activation : {Activation::relu, Activation::gelu, Activation::swiglu})
    for (const bool bias : {false, true})
      for (const bool gain : {false, true}) {
        MoeConfig config = small_config("switch");
        config.activation = activation;
        config.bias = bias;
        config.output_gain = gain;
        check_gradients(config);
      }
}

TEST_CASE("backward through switch is the derivative", "[layer][gradient]") {
  MoeConfig config = with_losses(small_config("switch"));
  check_gradients(config);
  config.options.set("jitter", 0.3);
  check_gradients(config);
}

TEST_CASE("backward through top_k is the derivative", "[layer][gradient]") {
  for (const std::string softmax : {"before", "after"})
    for (const int k : {1, 2, 4}) {
      MoeConfig config = with_losses(small_config("top_k"));
      config.k = k;
      config.options.set("softmax", softmax);
      config.options.set("jitter", 0.2);
      check_gradients(config);
    }
}

TEST_CASE("backward through the dense mixture is the derivative", "[layer][gradient]") {
  check_gradients(with_losses(small_config("dense_mixture")));
}

TEST_CASE("backward through sparsemixer with factor s is the derivative of s p E(x)",
          "[layer][gradient]") {
  // The estimator doubles dL/dp whatever the coin says; with the coins set to s and the factor to s
  // what remains is an ordinary derivative, through the masked softmax.
  MoeConfig config = with_losses(small_config("sparsemixer"));
  config.options.set("mask_eps", 0.6);
  for (const double scale : {1.0, 0.5}) {
    config.options.set("grad_factor", scale);
    check_gradients(config, scale);
  }
  config.options.set("sampling", false);
  config.options.set("grad_factor", 1.0);
  check_gradients(config);
}

TEST_CASE("backward through k rounds with factor s is the derivative of sum s p E(x)",
          "[layer][gradient]") {
  for (const std::string router : {"sparsemixer", "sparsemixer_v2", "sparsemixer_v2_star", "euler",
                                   "midpoint", "heun", "uniform_path", "reinforce"})
    for (const int k : {1, 2, 4}) {
      MoeConfig config = with_losses(small_config(router));
      config.k = k;
      config.options.set("mask_eps", k == 2 ? 0.6 : 0.0);
      config.options.set("grad_factor", 0.7);
      check_gradients(config, 0.7);
    }
}

TEST_CASE("a dropped assignment of a sampled gate has no gradient", "[layer][gradient]") {
  for (const std::string router : {"sparsemixer_v2", "sparsemixer_v2_star", "heun"}) {
    MoeConfig config = with_losses(small_config(router));
    config.k = 2;
    config.capacity_factor = 0.75;
    config.options.set("mask_eps", 0.0);
    config.options.set("grad_factor", 0.7);
    check_gradients(config, 0.7);
  }
}

TEST_CASE("backward through one-hot gates is the derivative apart from the task's logits",
          "[layer][gradient]") {
  for (const std::string router : {"straight_through", "reinmax"}) {
    MoeConfig config = with_losses(small_config(router));
    config.options.set("mask_eps", 0.6);
    config.options.set("grad_factor", 0.0);
    check_gradients(config);
  }
}

TEST_CASE("one-hot gates' gradients take every expert's output", "[layer][gradient]") {
  // The outputs are seen one expert at a time, by replays that choose it.
  for (const std::string router : {"straight_through", "reinmax"}) {
    const MoeConfig config = small_config(router);
    LayerRig<double> rig(config, {6, 3});
    rig.forward();
    rig.store.begin_update();
    rig.backward();
    const auto p = on_host(rig.saved.routing.probability),
               one_hot = on_host(rig.saved.routing.scale), x = on_host(rig.x), dy = on_host(rig.dy);
    const std::size_t tokens = rig.step.tokens();
    std::vector<double> g(tokens * 4, 0);
    for (std::size_t e = 0; e < 4; ++e) {
      Routing<double> only = rig.saved.routing.clone(ExecutionSpace());
      std::vector<double> scale(tokens * 4, 0);
      for (std::size_t t = 0; t < tokens; ++t) scale[4 * t + e] = 1;
      fill_device(only.scale, scale);
      LayerRig<double> other(config, {6, 3});
      other.forward(&only);
      const auto y = on_host(other.y);
      for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t i = 0; i < 5; ++i) g[4 * t + e] += dy[5 * t + i] * y[5 * t + i];
    }
    std::vector<double> expected(4 * 5, 0);
    for (std::size_t t = 0; t < tokens; ++t) {
      const auto product = [&](const auto& q, std::size_t e) {
        double mean = 0;
        for (std::size_t i = 0; i < 4; ++i) mean += q(i) * g[4 * t + i];
        return q(e) * (g[4 * t + e] - mean);
      };
      const auto soft = [&](std::size_t e) { return p[4 * t + e]; };
      const auto mixed = [&](std::size_t e) { return (p[4 * t + e] + one_hot[4 * t + e]) / 2; };
      for (std::size_t e = 0; e < 4; ++e) {
        const double dz = router == "reinmax" ? 2 * product(mixed, e) - product(soft, e) / 2
                                              : product(soft, e);
        for (std::size_t i = 0; i < 5; ++i) expected[5 * e + i] += dz * x[5 * t + i];
      }
    }
    CHECK(largest(expected) > 1e-3);
    CHECK(worst_error(rig.gradient("router.weight"), expected) < 1e-12);
  }
}

TEST_CASE("each auxiliary loss has its own derivative", "[layer][gradient]") {
  for (const std::string router : {"switch", "sparsemixer", "top_k", "dense_mixture"}) {
    MoeConfig config = small_config(router);
    if (router == "sparsemixer") {
      config.options.set("grad_factor", 1.0);
      config.options.set("sampling", false);
    }
    config.balance = 2;
    check_gradients(config);
    config.balance = 0;
    config.z_loss = 0.7;
    check_gradients(config);
  }
}

TEST_CASE("grad_factor scales the task's gradient, not the auxiliary losses'",
          "[layer][gradient]") {
  const auto router_gradient = [](double factor, double balance, double z_loss) {
    MoeConfig config = small_config("sparsemixer");
    config.options.set("grad_factor", factor);
    config.options.set("mask_eps", 0.6);
    config.balance = balance;
    config.z_loss = z_loss;
    LayerRig<double> rig(config, {9});
    rig.forward();
    rig.backward();
    return rig.gradient("router.weight");
  };
  const auto once = router_gradient(1, 0, 0), twice = router_gradient(2, 0, 0),
             none = router_gradient(0, 1, 0.1), all = router_gradient(2, 1, 0.1);
  REQUIRE(largest(once) > 1e-3);
  REQUIRE(largest(none) > 1e-3);
  std::vector<double> doubled, sum;
  for (std::size_t i = 0; i < once.size(); ++i) {
    doubled.push_back(2 * once[i]);
    sum.push_back(2 * once[i] + none[i]);
  }
  CHECK(worst_error(twice, doubled) < 1e-13);
  CHECK(worst_error(all, sum) < 1e-13);
}

TEST_CASE("expert_grad = probability gives the expert p dL/dy", "[layer][gradient]") {
  const auto expert_gradient = [](const std::string& rule, double scale) {
    MoeConfig config = small_config("sparsemixer");
    config.options.set("expert_grad", rule);
    LayerRig<double> rig(config, {9});
    rig.forward();
    const Routing<double> recorded = rig.saved.routing.clone(ExecutionSpace());
    Kokkos::deep_copy(recorded.scale, scale);
    rig.forward(&recorded);
    rig.backward();
    return rig.gradient("experts.w2");
  };
  const auto full = expert_gradient("weight", 1);
  CHECK(expert_gradient("probability", 1) == full);
  CHECK(expert_gradient("probability", 0.5) == full);
  const auto halved = expert_gradient("weight", 0.5);
  for (std::size_t i = 0; i < full.size(); ++i) CHECK(halved[i] == 0.5 * full[i]);
}
