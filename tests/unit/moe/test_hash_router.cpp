// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// Experts by token id.
#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/routers/hash.hpp"
#include "support/catch.hpp"
#include "support/layer_rig.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

using namespace kokomoe;
using namespace kokomoe::test;

TEST_CASE("hash tables follow the token id", "[router][hash]") {
  const std::vector<int> ids = {0, 1, 2, 3, 4, 5, 6, 7, 5, 5};
  std::vector<int> position(10);
  std::iota(position.begin(), position.end(), 0);
  PackedStep step(ids, std::vector<int>(10, -1), {0, 10}, std::vector<std::uint32_t>(10, 0),
                  position);
  const auto route = [&](const std::string& table, int layer = 0) {
    RouterPlace place{2, 3, 1, layer, "router"};
    place.vocabulary = 8;
    place.token_counts = std::make_shared<const std::vector<std::int64_t>>(
        std::vector<std::int64_t>{5, 0, 1, 9, 4, 4, 0, 3});
    LoneRouter<float> router("hash", place, RouterOptions({{"table", table}}));
    const Routing<float> routing = router.route(step, {});
    CHECK(on_host(routing.weight) == std::vector<float>(10, 1.0f));
    return on_host(routing.expert);
  };
  CHECK(route("modulo") == std::vector<int>{0, 1, 2, 0, 1, 2, 0, 1, 2, 2});
  // 3 (9) to 0, 0 (5) to 1, 4 (4) and 5 (4) to 2, 7 (3) to 1, 2 (1) to 1 (8 against 8 and 9: lower
  // index among as many ids), then those that never occur to the smallest load.
  CHECK(balanced_hash_table({5, 0, 1, 9, 4, 4, 0, 3}, 3) ==
        std::vector<double>{1, 2, 1, 0, 2, 2, 2, 1});
  CHECK(route("balanced") == std::vector<int>{1, 2, 1, 0, 2, 2, 2, 1, 2, 2});
  const auto random = route("random");
  CHECK(random == route("random"));
  CHECK(random[5] == random[8]);
  CHECK(std::set<int>(random.begin(), random.end()).size() > 1);
}

TEST_CASE("balanced hash tables survive float and are even", "[router][hash]") {
  for (const int experts : {1, 7, 64, 1000}) {
    RouterPlace place{2, experts, 1, 0, "router"};
    place.vocabulary = 5000;
    std::vector<std::int64_t> counts;
    for (std::int64_t i = 0; i < 5000; ++i) counts.push_back(100000 / (i + 20));
    place.token_counts = std::make_shared<const std::vector<std::int64_t>>(counts);
    std::vector<int> ids(5000), position(5000, 0);
    std::iota(ids.begin(), ids.end(), 0);
    PackedStep step(ids, ids, {0, 5000}, std::vector<std::uint32_t>(5000, 0), position);
    LoneRouter<float> router("hash", place, RouterOptions({{"table", std::string("balanced")}}));
    const auto expert = on_host(router.route(step, {}).expert);
    const auto table = balanced_hash_table(counts, experts);
    CHECK(std::vector<double>(expert.begin(), expert.end()) == table);
    std::vector<std::int64_t> load(static_cast<std::size_t>(experts), 0);
    for (std::size_t i = 0; i < 5000; ++i) load[static_cast<std::size_t>(table[i])] += counts[i];
    const auto [least, most] = std::minmax_element(load.begin(), load.end());
    if (experts <= 7) CHECK(*most - *least <= 20);
  }
}

TEST_CASE("hash says what it lacks", "[router][hash]") {
  const auto refused = [](const std::string& table, int vocabulary, std::int64_t counts) {
    return message_of<InputError>([&] {
      ParameterStore<float> store;
      RouterPlace place{2, 4, 1, 0, "router"};
      place.vocabulary = vocabulary;
      if (counts > 0)
        place.token_counts = std::make_shared<const std::vector<std::int64_t>>(counts, 1);
      make_router<float>("hash", place, RouterOptions({{"table", table}}), store);
    });
  };
  CHECK_THAT(refused("random", 0, 0), contains("random") && contains("vocabulary"));
  CHECK_THAT(refused("balanced", 0, 0), contains("vocabulary"));
  CHECK_THAT(refused("balanced", 9, 0), contains("how often") || contains("occurs"));
  CHECK_THAT(refused("balanced", 9, 8), contains("9 token counts, not 8"));
  PackedStep step({3});
  LoneRouter<float> router("hash", 4, 1);
  CHECK_THAT(message_of<InputError>([&] { router.route(step, {}); }), contains("no token ids"));
  MoeConfig config = small_config("hash");
  config.z_loss = 0.1;
  CHECK(impossible(config)->key == "z_loss");
  config.z_loss = 0;
  config.balance = 0.1;
  CHECK(impossible(config)->key == "balance");
}

TEMPLATE_TEST_CASE("a layer with hash routing has no router gradient", "[layer][hash]", float,
                   double) {
  using T = TestType;
  MoeConfig config = small_config("hash");
  config.capacity_factor = 0.8;
  config.shared_experts = 1;
  LayerRig<T> rig(config, {7, 1, 4});
  rig.step.ctx.tokens.ids = device_vector(std::vector<int>{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8});
  const Vector<double> sums("sums", static_cast<std::size_t>(LoadStatistics::width(4)));
  rig.step.reset();
  rig.layer.forward(rig.step.ctx, rig.x, rig.y, rig.saved, sums);
  rig.backward();
  CHECK(on_host(sums) == std::vector<double>{2, 6, 2, 2, 0, 0, 0, 0, 0, 0});
  for (const auto& values : {on_host(rig.y), on_host(rig.dx)})
    for (const T v : values) REQUIRE(std::isfinite(v));
  CHECK(largest(rig.gradient("experts.w1")) > 0);
}
