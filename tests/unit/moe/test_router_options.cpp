// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "support/catch.hpp"
#include "support/lone_router.hpp"

#include <set>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

std::string refusal(const std::string& router, const RouterOptions& options, int k = 1,
                    int experts = 4) {
  return message_of<InputError>([&] {
    ParameterStore<float> store;
    make_router<float>(router, {2, experts, k, 0, "router"}, options, store);
  });
}

}  // namespace

TEST_CASE("the registry has one entry for each name, with its source", "[router][options]") {
  std::set<std::string> names;
  for (const RouterInfo& info : router_registry()) {
    CAPTURE(info.name);
    CHECK(names.insert(info.name).second);
    CHECK(!info.summary.empty());
    CHECK(!info.paper.empty());
    CHECK(router_info(info.name).summary == info.summary);
    for (const RouterOption& option : info.options) CHECK(!option.doc.empty());
    // Its defaults suit it, in both types.
    CHECK_NOTHROW(LoneRouter<float>(info.name, 4, info.defaults.k));
    CHECK_NOTHROW(LoneRouter<double>(info.name, 4, info.defaults.k));
  }
  for (const char* name : {"switch", "sparsemixer", "top_k", "dense_mixture"})
    CHECK(names.count(name) == 1);
}

TEST_CASE("an unknown router is refused with the nearest and all names", "[router][options]") {
  const std::string text = refusal("sparsmixer", {});
  CHECK_THAT(text, contains("sparsmixer") && contains("did you mean \"sparsemixer\"?"));
  CHECK_THAT(text, contains("switch") && contains("top_k"));
  CHECK_THROWS_AS(router_info("nonsense_of_no_kind"), InputError);
}

TEST_CASE("an unknown option is refused with the nearest name", "[router][options]") {
  CHECK_THAT(refusal("sparsemixer", RouterOptions({{"mask_epsilon", 0.1}})),
             contains("sparsemixer") && contains("mask_epsilon") && contains("\"mask_eps\"?"));
  CHECK_THAT(refusal("switch", RouterOptions({{"sampling", true}})), contains("jitter"));
  CHECK_THAT(refusal("dense_mixture", RouterOptions({{"jitter", 0.1}})), contains("jitter"));
}

TEST_CASE("options of a wrong type, range or choice are refused", "[router][options]") {
  CHECK_THAT(refusal("switch", RouterOptions({{"jitter", 1.5}})),
             contains("jitter") && contains("1.5"));
  CHECK_THAT(refusal("switch", RouterOptions({{"jitter", -0.1}})), contains("jitter"));
  CHECK_THAT(refusal("switch", RouterOptions({{"jitter", std::nan("")}})), contains("jitter"));
  CHECK_THAT(refusal("switch", RouterOptions({{"jitter", std::string("0.1")}})),
             contains("a real number") && contains("a string"));
  CHECK_THAT(refusal("sparsemixer", RouterOptions({{"sampling", 1.0}})), contains("a boolean"));
  CHECK_THAT(refusal("sparsemixer", RouterOptions({{"mask", std::string("both")}})),
             contains("\"both\"") && contains("maximum, sum"));
  CHECK_THAT(refusal("top_k", RouterOptions({{"softmax", std::string("during")}}), 2),
             contains("before, after"));
}

TEST_CASE("an integer serves where a real number is asked for", "[router][options]") {
  CHECK_NOTHROW(
      LoneRouter<float>("sparsemixer", 4, 1, RouterOptions({{"grad_factor", std::int64_t(1)}})));
  const RouterOptions full = RouterOptions({{"jitter", std::int64_t(0)}})
                                 .completed("switch", router_info("switch").options);
  CHECK(full.real("jitter") == 0.0);
  CHECK_THROWS_AS(full.boolean("jitter"), InputError);
  CHECK_THROWS_AS(full.text("jitter"), InputError);
  CHECK_THROWS_AS(full.integer("jitter"), InputError);
  CHECK_THROWS_AS(full.real("absent"), InputError);
}

TEST_CASE("k must suit router and experts", "[router][options]") {
  CHECK_THAT(refusal("switch", {}, 2), contains("switch") && contains("k must be 1, not 2"));
  CHECK_THAT(refusal("dense_mixture", {}, 4), contains("dense_mixture"));
  CHECK_THAT(refusal("top_k", {}, 5), contains("k = 5") && contains("4 experts"));
  CHECK_THAT(refusal("top_k", {}, 0), contains("k = 0"));
  CHECK_NOTHROW(LoneRouter<float>("top_k", 4, 4));
}

TEST_CASE("the sum form of the mask keeps what is within 2 eps of both sizes",
          "[router][options]") {
  // m = 1; (m - z) / (|z| + m): 0.0526, 0.1765, 0.25, 1.
  const std::vector<double> row = {1.0, 0.9, 0.7, 0.6, 0.0};
  PackedStep step({1});
  LoneRouter<double> sum("sparsemixer", 5, 1, RouterOptions({{"mask", std::string("sum")}}));
  CHECK(on_host(sum.route(step, row)).kept == std::vector<int>{1, 1, 1, 0, 0});
  LoneRouter<double> maximum("sparsemixer", 5, 1);
  CHECK(on_host(maximum.route(step, row)).kept == std::vector<int>{1, 1, 0, 0, 0});
}

TEST_CASE("expert_grad decides what scales the expert's gradient", "[router][options]") {
  PackedStep step({200});
  const auto logits = repeated<double>({1.0, 0.95, 0.9}, 200);
  LoneRouter<double> router("sparsemixer", 3, 1,
                            RouterOptions({{"expert_grad", std::string("probability")}}));
  const auto routing = on_host(router.route(step, logits));
  REQUIRE(routing.expert_gradient_weight.size() == 200);
  int halves = 0;
  for (std::size_t t = 0; t < 200; ++t) {
    const double p = routing.probability[3 * t + static_cast<std::size_t>(routing.expert[t])];
    CHECK(routing.expert_gradient_weight[t] == p);
    CHECK(routing.weight[t] == routing.scale[t] * p);
    halves += routing.scale[t] == 0.5 ? 1 : 0;
  }
  CHECK(halves > 20);
  LoneRouter<double> published("sparsemixer", 3, 1);
  CHECK(on_host(published.route(step, logits)).expert_gradient_weight.empty());
}
