// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "support/catch.hpp"
#include "support/layer_rig.hpp"

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// A configuration that its router's defaults make possible.
MoeConfig possible_config(const std::string& router) {
  MoeConfig config = small_config(router);
  config.k = router_info(router).defaults.k;
  config.balance = router_info(router).defaults.balance;
  config.vocabulary = 11;  // for routers by token id
  return config;
}

std::string key_of(const MoeConfig& config) {
  const auto refusal = impossible(config);
  return refusal ? refusal->key : "";
}

}  // namespace

TEST_CASE("every router is possible with its own defaults", "[config]") {
  for (const RouterInfo& info : router_registry()) {
    CAPTURE(info.name);
    CHECK(key_of(possible_config(info.name)).empty());
  }
}

TEST_CASE("a router that balances by itself takes no balance loss", "[config]") {
  for (const char* router : {"base", "s_base", "expert_choice", "quantile_balance"}) {
    MoeConfig config = possible_config(router);
    config.balance = 0.01;
    CAPTURE(router);
    CHECK(key_of(config) == "balance");
    CHECK_THAT(impossible(config)->reason, contains(router) && contains("say moe/balance=0"));
  }
  for (const RouterInfo& info : router_registry())
    if (!info.balance_loss) CHECK(info.defaults.balance == 0);
}

TEST_CASE("the z-loss needs logits", "[config]") {
  for (const RouterInfo& info : router_registry()) {
    MoeConfig config = possible_config(info.name);
    config.z_loss = 0.001;
    CAPTURE(info.name);
    CHECK(key_of(config) == (info.logits ? "" : "z_loss"));
  }
}

TEST_CASE("a capacity needs assignments to drop, or experts that choose", "[config]") {
  for (const RouterInfo& info : router_registry()) {
    MoeConfig config = possible_config(info.name);
    config.capacity_factor = 1.25;
    CAPTURE(info.name);
    CHECK(key_of(config) == (info.takes_capacity || info.own_capacity ? "" : "capacity_factor"));
    CHECK_FALSE((info.takes_capacity && info.own_capacity));
  }
  MoeConfig config = possible_config("dense_mixture");
  config.capacity_factor = 1.25;
  CHECK(key_of(config) == "capacity_factor");
  for (const char* router : {"switch", "top_k", "gshard", "expert_choice"}) {
    config = possible_config(router);
    config.capacity_factor = 1.25;
    CHECK(key_of(config).empty());
  }
}

TEST_CASE("what looks at later tokens stays out of a causal model, unless allowed", "[config]") {
  for (const RouterInfo& info : router_registry()) {
    MoeConfig config = possible_config(info.name);
    config.causal = true;
    CAPTURE(info.name);
    CHECK(key_of(config) == (info.batch_coupled ? "router" : ""));
    config.allow_future = true;
    CHECK(key_of(config).empty());
    if (!info.takes_capacity || info.batch_coupled) continue;
    config.capacity_factor = 2;
    CHECK(key_of(config).empty());
    config.allow_future = false;
    CHECK(key_of(config) == "capacity_factor");
    CHECK_THAT(impossible(config)->reason, contains("moe/allow_future"));
    config.causal = false;
    CHECK(key_of(config).empty());
  }
  for (const char* router : {"base", "s_base", "expert_choice", "quantile_balance", "gshard"})
    CHECK(router_info(router).batch_coupled);
}

TEST_CASE("k must be what a router takes, and among the experts", "[config]") {
  MoeConfig config = possible_config("gshard");
  config.k = 1;
  CHECK(key_of(config) == "k");
  config = possible_config("gshard");
  config.experts = 1;
  CHECK(key_of(config) == "k");
  config = possible_config("base");
  config.k = 2;
  CHECK(key_of(config) == "k");
  config = possible_config("s_base");
  config.k = 4;
  CHECK(key_of(config).empty());
  config.k = 5;
  CHECK(key_of(config) == "k");
  config.k = 0;
  CHECK(key_of(config) == "k");
}

TEST_CASE("unknown routers, options, scopes and rules are refused by name", "[config]") {
  MoeConfig config = possible_config("base");
  config.options.set("epsilon", 0.0);
  CHECK_THROWS_AS(impossible(config), InputError);
  config.options = RouterOptions({{"epsilom", 0.1}});
  CHECK_THAT(message_of<InputError>([&] { impossible(config); }), contains("\"epsilon\"?"));
  config.router = "bass";
  CHECK_THAT(message_of<InputError>([&] { impossible(config); }), contains("\"base\"?"));
  CHECK(parse_balance_scope("sequence") == BalanceScope::sequence);
  CHECK(parse_balance_scope("micro_batch") == BalanceScope::micro_batch);
  CHECK(parse_balance_scope("global") == BalanceScope::global);
  CHECK_THROWS_AS(parse_balance_scope("batch"), InputError);
  CHECK(parse_capacity_drop("position") == CapacityDrop::position);
  CHECK(parse_capacity_drop("probability") == CapacityDrop::probability);
  CHECK_THROWS_AS(parse_capacity_drop("random"), InputError);
}

TEST_CASE("a layer hands routers their groups and capacity", "[config]") {
  MoeConfig config = possible_config("expert_choice");
  config.routing_group = 6;
  config.capacity_factor = 0.5;
  config.vocabulary = 11;
  const RouterPlace place = router_place(config, 3, "moe.router");
  CHECK(place.routing_group == 6);
  CHECK(place.capacity_factor == 0.5);
  CHECK(place.vocabulary == 11);
  CHECK(place.layer == 3);
  CHECK(place.experts == 4);
  CHECK(place.name == "moe.router");
  LayerRig<double> rig(config, {8, 4});
  rig.forward();
  // Each of two groups of 6: ceil(6 * 0.5 / 4) = 1 token for each expert.
  CHECK(on_host(rig.saved.plan.counts) == std::vector<int>(4, 2));
  config.capacity_factor = 0;
  LayerRig<double> twice(config, {8, 4});
  twice.forward();
  CHECK(on_host(twice.saved.plan.counts) == std::vector<int>(4, 6));
}
