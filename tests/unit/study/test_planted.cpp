// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/study/fidelity.hpp"
#include "support/catch.hpp"

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

FidelityConfig planted_config(const std::vector<std::string>& routers) {
  FidelityConfig config;
  config.mode = FidelityConfig::Mode::planted;
  config.routers = routers;
  config.clusters = 4;
  config.seeds = 1;
  config.steps = 150;
  config.margin = 0.05;
  return config;
}

}  // namespace

TEST_CASE("a router that learns beats itself frozen, one with a wrong sign does not", "[study]") {
  for (const char* router : {"switch", "sparsemixer"}) {
    INFO(router);
    FidelityConfig config = planted_config({router});
    const PlantedResult right = fidelity_planted(config)[0];
    CHECK(right.passed);
    CHECK(right.purity > right.frozen_purity);
    config.router_gradient = -1;
    const PlantedResult wrong = fidelity_planted(config)[0];
    CHECK_FALSE(wrong.passed);
    CHECK(wrong.frozen_losses == right.frozen_losses);
  }
}
