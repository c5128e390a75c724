// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// MoeLayer::backward against central differences under replay, for routers with losses of their own:
// what forward reports is what backward differentiates.
#include "support/catch.hpp"
#include "support/layer_rig.hpp"

#include <numeric>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// sum <dy, y> plus all auxiliary losses, from the layer's own sums.
double loss(LayerRig<double>& rig, const Routing<double>& recorded) {
  const MoeConfig& config = rig.layer.config();
  const auto experts = static_cast<std::size_t>(config.experts);
  const Vector<double> device("sums", static_cast<std::size_t>(LoadStatistics::width(config.experts)));
  rig.step.reset();
  rig.layer.forward(rig.step.ctx, rig.x, rig.y, rig.saved, device, &recorded);
  Kokkos::fence();
  const auto sums = on_host(device), y = on_host(rig.y), dy = on_host(rig.dy);
  double auxiliary = sums[2 * experts + 1] + config.z_loss * sums[2 * experts];
  const double assignments = std::accumulate(sums.begin(), sums.begin() + config.experts, 0.0);
  if (config.balance_scope == BalanceScope::global)
    for (std::size_t e = 0; e < experts; ++e)
      auxiliary += config.balance * config.experts * sums[e] / assignments * sums[experts + e];
  return std::inner_product(y.begin(), y.end(), dy.begin(), 0.0) +
         auxiliary / rig.step.ctx.update_tokens;
}

void check_gradients(const MoeConfig& config) {
  CAPTURE(config.router, config.k, config.balance, config.capacity_factor);
  LayerRig<double> rig(config, {6, 1, 5});
  rig.forward();
  const Routing<double> recorded = rig.saved.routing.clone(ExecutionSpace());
  rig.store.begin_update();
  rig.forward(&recorded);
  rig.backward();
  const auto again = [&] { return loss(rig, recorded); };
  for (const auto& entry : rig.store.entries()) {
    if (entry.spec.state) continue;
    const auto handle = rig.store.find(entry.spec.name);
    const auto analytic = on_host(rig.store.gradient_vector(handle));
    CAPTURE(entry.spec.name);
    CHECK(largest(analytic) > 1e-3);
    CHECK(worst_difference(rig.store.value_vector(handle), analytic, again, 60) < 1e-7);
  }
  CHECK(worst_difference(rig.x, on_host(rig.dx), again, 60) < 1e-7);
}

MoeConfig with_extras(const std::string& router, int k) {
  MoeConfig config = small_config(router);
  config.k = k;
  config.bias = true;
  config.output_gain = true;
  config.z_loss = 0.3;
  config.shared_experts = 1;
  if (router_info(router).balance_loss) {
    config.balance = 2;
    config.balance_scope = parse_balance_scope(router_info(router).defaults.balance_scope);
  }
  return config;
}

}  // namespace

TEST_CASE("backward through noise, importance and load is the derivative", "[layer][gradient]") {
  for (const int k : {1, 2, 4}) {
    MoeConfig config = with_extras("noisy_top_k", k);
    config.options.set("importance", 3.0);
    config.options.set("load", 2.0);
    check_gradients(config);
    config.options.set("importance", 0.0);
    config.balance = config.z_loss = 0;
    check_gradients(config);
    config.options.set("load", 0.0);
    if (k > 1) check_gradients(config);
  }
}

TEST_CASE("backward through cosine logits is the derivative", "[layer][gradient]") {
  for (const int k : {1, 2, 4}) check_gradients(with_extras("xmoe", k));
}

TEST_CASE("backward through sigmoid scores is the derivative", "[layer][gradient]") {
  for (const int k : {1, 2, 4}) {
    MoeConfig config = with_extras("deepseek_v3", k);
    config.options.set("route_scale", 1.5);
    check_gradients(config);
    config.balance_scope = BalanceScope::global;
    config.options.set("groups", std::int64_t(2));
    config.options.set("group_limit", std::int64_t(k > 2 ? 2 : 1));
    check_gradients(config);
  }
}

TEST_CASE("backward through ReLU weights and their loss is the derivative", "[layer][gradient]") {
  for (const int k : {1, 2, 4}) check_gradients(with_extras("remoe", k));
}

TEST_CASE("backward through mean outputs is the derivative", "[layer][gradient]") {
  for (const int k : {1, 2, 4}) check_gradients(with_extras("default_moe", k));
}

TEST_CASE("backward under a capacity is the derivative", "[layer][gradient]") {
  for (const std::string router : {"noisy_top_k", "xmoe", "deepseek_v3", "default_moe"}) {
    MoeConfig config = with_extras(router, 2);
    config.capacity_factor = 0.75;
    check_gradients(config);
  }
}

TEST_CASE("backward through group limits is the derivative", "[layer][gradient]") {
  for (const std::string softmax : {"before", "after"}) {
    MoeConfig config = with_extras("top_k", 2);
    config.options.set("softmax", softmax);
    config.options.set("groups", std::int64_t(2));
    config.options.set("group_limit", std::int64_t(1));
    check_gradients(config);
  }
}
