// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// MoeLayer::backward against central differences in double with the routing replayed: routers that
// look at groups of tokens, capacity, scopes of the load-balance loss, shared experts.
#include "support/catch.hpp"
#include "support/layer_rig.hpp"
#include "support/reference_file.hpp"

#include <cmath>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

const std::vector<int> lengths = {6, 1, 5};

/// sum <dy, y> + balance over the tokens of the scope + z-loss, written out here once more.
double loss(LayerRig<double>& rig, const Routing<double>& recorded) {
  rig.forward(&recorded);
  const MoeConfig& config = rig.layer.config();
  const auto experts = static_cast<std::size_t>(config.experts);
  const auto y = on_host(rig.y), dy = on_host(rig.dy), z = on_host(rig.saved.logits),
             p = on_host(rig.saved.routing.probability);
  const auto expert = on_host(recorded.expert), token = on_host(recorded.token);
  const auto counted = on_host(recorded.counted);
  double sum = 0, auxiliary = 0;
  for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
  const bool by_sequence = config.balance_scope == BalanceScope::sequence;
  const std::vector<int> parts =
      by_sequence ? lengths : std::vector<int>{static_cast<int>(rig.step.tokens())};
  int begin = 0;
  for (const int length : parts) {
    std::vector<double> count(experts, 0), mean(experts, 0);
    double assignments = 0;
    for (std::size_t n = 0; n < expert.size(); ++n) {
      if (token[n] < begin || token[n] >= begin + length) continue;
      if (!counted.empty() && counted[n] == 0) continue;
      if (expert[n] >= config.experts) continue;
      count[static_cast<std::size_t>(expert[n])] += 1;
      assignments += 1;
    }
    for (int t = begin; t < begin + length; ++t)
      for (std::size_t e = 0; e < experts; ++e)
        mean[e] += p[static_cast<std::size_t>(t) * experts + e] / length;
    for (std::size_t e = 0; e < experts; ++e)
      auxiliary += length * config.balance * config.experts * count[e] / assignments * mean[e];
    begin += length;
  }
  for (std::size_t t = 0; t < rig.step.tokens(); ++t) {
    double exponentials = 0;
    for (std::size_t e = 0; e < experts; ++e) exponentials += std::exp(z[t * experts + e]);
    auxiliary += config.z_loss * std::log(exponentials) * std::log(exponentials);
  }
  return sum + auxiliary / rig.step.ctx.update_tokens;
}

void check_gradients(const MoeConfig& config) {
  CAPTURE(config.router, config.k, config.capacity_factor, config.routing_group,
          config.shared_experts, static_cast<int>(config.balance_scope));
  LayerRig<double> rig(config, lengths);
  rig.forward();
  const Routing<double> recorded = rig.saved.routing.clone(ExecutionSpace());
  rig.store.begin_update();
  rig.forward(&recorded);
  rig.backward();
  const auto again = [&] { return loss(rig, recorded); };
  const auto dx = on_host(rig.dx);
  for (const auto& entry : rig.store.entries()) {
    const auto handle = rig.store.find(entry.spec.name);
    const auto analytic = on_host(rig.store.gradient_vector(handle));
    CAPTURE(entry.spec.name);
    CHECK(largest(analytic) > 1e-4);
    CHECK(worst_difference(rig.store.value_vector(handle), analytic, again, 60) < 1e-7);
  }
  CHECK(worst_difference(rig.x, dx, again, 60) < 1e-7);
}

MoeConfig full_config(const std::string& router) {
  MoeConfig config = small_config(router);
  config.k = router_info(router).defaults.k;
  config.bias = config.output_gain = true;
  config.activation = Activation::gelu;
  config.z_loss = 0.5;
  return config;
}

int count_of(const std::vector<unsigned char>& flags) {
  int count = 0;
  for (const unsigned char flag : flags) count += flag;
  return count;
}

}  // namespace

TEST_CASE("backward through routers of groups is the derivative", "[layer][gradient][batch]") {
  for (const int group : {0, 6}) {
    MoeConfig config = full_config("base");
    config.routing_group = group;
    check_gradients(config);
    config = full_config("expert_choice");
    config.routing_group = group;
    check_gradients(config);
    config.capacity_factor = 0.7;
    check_gradients(config);
    for (const int k : {1, 2, 4}) {
      config = full_config("s_base");
      config.routing_group = group;
      config.k = k;
      check_gradients(config);
      config.options.set("softmax", std::string("before"));
      check_gradients(config);
      config = full_config("quantile_balance");
      config.routing_group = group;
      config.k = k;
      check_gradients(config);
      config.options.set("score", std::string("softmax"));
      check_gradients(config);
    }
  }
}

TEST_CASE("backward through gshard is the derivative, dropped slots and all",
          "[layer][gradient][batch]") {
  MoeConfig config = full_config("gshard");
  config.balance = 3;
  check_gradients(config);
  config.capacity_factor = 0.6;
  check_gradients(config);
  config.balance_scope = BalanceScope::sequence;
  check_gradients(config);
}

TEST_CASE("a capacity drops in the layer, and backward is the derivative",
          "[layer][gradient][capacity]") {
  for (const CapacityDrop drop : {CapacityDrop::position, CapacityDrop::probability})
    for (const int k : {1, 2, 3}) {
      MoeConfig config = full_config("top_k");
      config.k = k;
      config.balance = 3;
      config.capacity_factor = 0.6;
      config.capacity_drop = drop;
      check_gradients(config);

      LayerRig<double> rig(config, lengths);
      rig.forward();
      const auto dropped = on_host(rig.saved.routing.dropped);
      CHECK(count_of(dropped) > 0);
      CHECK(rig.saved.plan.rows() == static_cast<int>(dropped.size()) - count_of(dropped));
      // Balance counts what was chosen, not what ran.
      double counted = 0;
      for (const double c : on_host(rig.saved.counts)) counted += c;
      CHECK(counted == static_cast<double>(dropped.size()));
      // A replay drops the same, whatever the weights say now.
      const Routing<double> recorded = rig.saved.routing.clone(ExecutionSpace());
      for (double scale : {-1.0, 0.1}) {
        auto weights = rig.value("router.weight");
        for (double& w : weights) w *= scale;
        fill_device(rig.store.value_vector(rig.store.find("moe.router.weight")), weights);
        rig.forward(&recorded);
        CHECK(on_host(rig.saved.routing.dropped) == dropped);
      }
    }
}

TEST_CASE("a capacity of many times the share drops nothing", "[layer][capacity]") {
  MoeConfig config = full_config("top_k");
  config.k = 2;
  LayerRig<double> free(config, lengths);
  config.capacity_factor = 100;
  LayerRig<double> wide(config, lengths);
  free.forward();
  wide.forward();
  CHECK(count_of(on_host(wide.saved.routing.dropped)) == 0);
  CHECK(on_host(wide.y) == on_host(free.y));
}

TEST_CASE("balance by sequence and micro-batch: the derivative", "[layer][gradient][balance]") {
  for (const BalanceScope scope :
       {BalanceScope::sequence, BalanceScope::micro_batch, BalanceScope::global})
    for (const int k : {1, 2}) {
      MoeConfig config = full_config("top_k");
      config.k = k;
      config.balance = 5;
      config.balance_scope = scope;
      check_gradients(config);
      config.capacity_factor = 0.5;
      check_gradients(config);
    }
}

TEMPLATE_TEST_CASE("balance by sequence and micro-batch: the reference's value and gradient",
                   "[auxiliary][balance][reference]", double, float) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 1e-5 : 1e-12;
  const kokomoe::testing::ReferenceFile file(KOKOMOE_TEST_FOLDER
                                             "/reference/batch_routers.kkref");
  for (const char* set : {"sequences", "few_tokens", "two_experts", "one_expert", "one_token",
                          "larger"}) {
    const std::string at = std::string(set) + "/";
    const auto logits = file.template real<T>(at + "logits");
    const std::size_t tokens = file.shape(at + "logits")[0], experts = file.shape(at + "logits")[1];
    PackedStep step(file.i4(at + "lengths"));
    step.ctx.update_tokens = static_cast<double>(tokens) + 16;
    const int width = static_cast<int>(experts);
    LoneRouter<T> router("top_k", width, std::min(2, width));
    const Routing<T> routing = router.route(step, logits);
    const Matrix<T> gradient("gradient", tokens, experts);
    const Vector<double> sum("sum", 1);
    const Matrix<int> counts = count_by_sequence<T>(step.ctx, routing);
    add_sequence_balance<T>(step.ctx, 3, counts, routing.probability, sum);
    sequence_balance_gradient<T>(step.ctx, 3, counts, gradient);
    CAPTURE(set);
    CHECK(on_host(sum)[0] == Approx(file.scalar(at + "balance_sequence/value")).epsilon(tolerance));
    CHECK(worst_error(on_host(gradient), file.f8(at + "balance_sequence/gradient")) < tolerance);

    Kokkos::deep_copy(sum, 1.0);  // it adds
    const Vector<int> all = count_assignments<T>(step.ctx.space, step.saved, routing);
    const Vector<double> statistics("statistics", LoadStatistics::width(static_cast<int>(experts)));
    gather_statistics<T>(step.ctx, all, routing.probability,
                         device_matrix<T>(tokens, experts, logits), false, statistics);
    const Vector<double> counted(statistics.data(), experts);
    add_local_balance(step.ctx, 3, counted, statistics, sum);
    CHECK(on_host(sum)[0] - 1 ==
          Approx(file.scalar(at + "balance_micro_batch/value")).epsilon(tolerance));
    balance_gradient<T>(step.ctx.space, 3, counted, step.ctx.update_tokens, gradient);
    CHECK(worst_error(on_host(gradient), file.f8(at + "balance_micro_batch/gradient")) < tolerance);
  }
}

TEST_CASE("the layer reports balance by scope with the router's own loss", "[layer][balance]") {
  for (const BalanceScope scope : {BalanceScope::sequence, BalanceScope::micro_batch}) {
    MoeConfig config = full_config("top_k");
    config.balance = 5;
    config.z_loss = 0;
    config.balance_scope = scope;
    LayerRig<double> rig(config, lengths);
    rig.forward();
    const Routing<double> recorded = rig.saved.routing.clone(ExecutionSpace());
    const Vector<double> statistics("statistics", LoadStatistics::width(4));
    rig.step.reset();
    rig.layer.forward(rig.step.ctx, rig.x, rig.y, rig.saved, statistics, &recorded);
    const double reported = on_host(statistics)[static_cast<std::size_t>(
        LoadStatistics::router_loss(4))];
    Kokkos::deep_copy(rig.dy, 0.0);
    CHECK(reported / rig.step.ctx.update_tokens == Approx(loss(rig, recorded)).epsilon(1e-12));
    CHECK(reported > 1);
  }
}

TEST_CASE("shared experts see every token, and backward is the derivative",
          "[layer][gradient][shared]") {
  for (const Activation activation : {Activation::relu, Activation::swiglu})
    for (const int shared : {1, 3})
      for (const std::string router : {"switch", "expert_choice"}) {
        MoeConfig config = full_config(router);
        config.activation = activation;
        config.shared_experts = shared;
        check_gradients(config);
        config.bias = config.output_gain = false;
        check_gradients(config);
      }
}

TEST_CASE("a layer with shared experts is the layer without plus one dense expert",
          "[layer][shared]") {
  MoeConfig config = small_config("switch");
  config.bias = true;
  LayerRig<double> without(config, lengths);
  config.shared_experts = 2;
  LayerRig<double> with(config, lengths);
  without.forward();
  with.forward();
  const auto y = on_host(without.y), both = on_host(with.y), x = on_host(with.x);
  const auto w1 = with.value("shared.w1"), b1 = with.value("shared.b1"),
             w2 = with.value("shared.w2"), b2 = with.value("shared.b2");
  const std::size_t d = 5, h = 12;
  REQUIRE(w1.size() == h * d);
  std::vector<double> expected;
  for (std::size_t t = 0; t < 12; ++t)
    for (std::size_t i = 0; i < d; ++i) {
      double sum = y[t * d + i] + b2[i];
      for (std::size_t j = 0; j < h; ++j) {
        double z = b1[j];
        for (std::size_t c = 0; c < d; ++c) z += w1[j * d + c] * x[t * d + c];
        sum += w2[i * h + j] * std::max(0.0, z);
      }
      expected.push_back(sum);
    }
  CHECK(worst_error(both, expected) < 1e-13);
}

TEMPLATE_TEST_CASE("no tokens go through routers of groups", "[layer][batch]", float, double) {
  for (const char* router : {"gshard", "base", "s_base", "expert_choice", "quantile_balance"}) {
    MoeConfig config = full_config(router);
    config.shared_experts = 1;
    if (router_info(router).takes_capacity) config.capacity_factor = 1;
    LayerRig<TestType> rig(config, {});
    rig.store.begin_update();
    rig.forward();
    rig.backward();
    for (const auto& entry : rig.store.entries())
      for (const TestType g : on_host(rig.store.gradient_vector(rig.store.find(entry.spec.name))))
        CHECK(g == 0);
  }
}
