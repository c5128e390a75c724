// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// What a capacity drops, against a list of claims served in order (tests/reference).
#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/capacity.hpp"
#include "kokomoe/moe/detail/selection.hpp"
#include "support/catch.hpp"
#include "support/packed_step.hpp"
#include "support/reference_file.hpp"

#include <cmath>
#include <limits>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

template <class T>
Routing<T> routing_of(PackedStep& step, int experts, int k, const std::vector<int>& expert,
                      const std::vector<T>& weight) {
  Routing<T> routing =
      make_token_choice<T>(step.ctx.space, step.saved, step.ctx.tokens.tokens, experts, k);
  fill_device(routing.expert, expert);
  fill_device(routing.weight, weight);
  return routing;
}

std::vector<int> dropped_of(const Vector<unsigned char>& dropped) {
  const auto host = on_host(dropped);
  return {host.begin(), host.end()};
}

}  // namespace

TEMPLATE_TEST_CASE("a capacity drops what the reference drops", "[capacity][reference]", float,
                   double) {
  using T = TestType;
  const kokomoe::testing::ReferenceFile file(KOKOMOE_TEST_FOLDER
                                             "/reference/batch_routers.kkref");
  for (int i = 0; file.has("capacity/" + std::to_string(i) + "/expert"); ++i) {
    const std::string at = "capacity/" + std::to_string(i) + "/";
    PackedStep step(file.i4(at + "lengths"));
    const int experts = file.i4(at + "experts")[0];
    const int k = static_cast<int>(file.shape(at + "expert")[1]);
    const RoutingGroups groups(step.ctx, file.i4(at + "routing_group")[0]);
    const auto before = file.i4(at + "before");
    for (const bool by_probability : {false, true}) {
      step.reset();
      Routing<T> routing = routing_of(step, experts, k, file.i4(at + "expert"),
                                      file.template real<T>(at + "weight"));
      if (largest(before) > 0)
        routing.dropped =
            device_vector(std::vector<unsigned char>(before.begin(), before.end()));
      const auto rule = by_probability ? CapacityDrop::probability : CapacityDrop::position;
      const auto expected = file.i4(at + (by_probability ? "probability" : "position"));
      CAPTURE(i, by_probability);
      apply_capacity(step.ctx, groups, k, file.scalar(at + "factor"), rule, routing);
      CHECK(dropped_of(routing.dropped) == expected);
      // Once more: nobody is over it any longer.
      apply_capacity(step.ctx, groups, k, file.scalar(at + "factor"), rule, routing);
      CHECK(dropped_of(routing.dropped) == expected);
    }
  }
}

TEST_CASE("all first choices are placed before any second one", "[capacity]") {
  // Capacity 2 of expert 0: tokens 1 and 3 want it first, token 0 second.
  PackedStep step({4});
  const std::vector<int> expert = {1, 0, 0, 1, 2, 1, 0, 2};
  const std::vector<double> weight = {0.5, 0.5, 0.6, 0.4, 0.9, 0.1, 0.3, 0.2};
  const RoutingGroups groups(step.ctx, 0);
  Routing<double> routing = routing_of(step, 3, 2, expert, weight);
  apply_capacity(step.ctx, groups, 2, 0.75, CapacityDrop::position, routing);
  CHECK(dropped_of(routing.dropped) == std::vector<int>{0, 1, 0, 0, 0, 1, 0, 0});
  routing = routing_of(step, 3, 2, expert, weight);
  apply_capacity(step.ctx, groups, 2, 0.75, CapacityDrop::probability, routing);
  CHECK(dropped_of(routing.dropped) == std::vector<int>{0, 0, 0, 0, 0, 1, 1, 0});
}

TEST_CASE("NaN weights go first, and never let an expert exceed its capacity", "[capacity]") {
  PackedStep step({4});
  const double nan = std::nan("");
  Routing<double> routing = routing_of<double>(step, 2, 1, {0, 0, 0, 0}, {nan, nan, 0.0, nan});
  apply_capacity(step.ctx, RoutingGroups(step.ctx, 0), 1, 1.0, CapacityDrop::probability, routing);
  CHECK(dropped_of(routing.dropped) == std::vector<int>{0, 1, 0, 1});
}

TEST_CASE("a capacity is at least one token and at most all", "[capacity]") {
  CHECK(expert_capacity(10, 4, 1, 1.0) == 3);
  CHECK(expert_capacity(10, 4, 2, 1.0) == 5);
  CHECK(expert_capacity(10, 4, 1, 1e-9) == 1);
  CHECK(expert_capacity(10, 4, 1, 1e300) == 10);
  CHECK(expert_capacity(1, 64, 1, 1.0) == 1);
  CHECK(expert_capacity(0, 4, 1, 1.0) == 0);
}

TEST_CASE("a capacity needs slots in token order", "[capacity]") {
  PackedStep step({4});
  Routing<double> routing = routing_of<double>(step, 2, 1, {0, 0, 0, 0}, {1, 1, 1, 1});
  routing.slots_per_token = 0;
  CHECK_THROWS_AS(apply_capacity(step.ctx, RoutingGroups(step.ctx, 0), 1, 1.0,
                                 CapacityDrop::position, routing),
                  Error);
}

TEMPLATE_TEST_CASE("order keys sort as numbers do", "[selection]", float, double) {
  using T = TestType;
  using Limits = std::numeric_limits<T>;
  const std::vector<T> sorted = {-Limits::infinity(), -Limits::max(),    T(-1),
                                 -Limits::min(),      -Limits::denorm_min(), T(0),
                                 Limits::denorm_min(), T(0.5),           T(1),
                                 Limits::max(),       Limits::infinity()};
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    if (i > 0) CHECK(detail::order_key(sorted[i - 1]) < detail::order_key(sorted[i]));
    CHECK(detail::from_order_key<T>(detail::order_key(sorted[i])) == sorted[i]);
  }
  CHECK(detail::order_key(T(-0.0)) == detail::order_key(T(0)));
  CHECK(detail::order_key(Limits::quiet_NaN()) < detail::order_key(-Limits::infinity()));
  CHECK(detail::order_key(-Limits::quiet_NaN()) == 0);
  auto values = Draw(5).many<T>(100);
  for (std::size_t i = 0; i < 100; i += 3) values[i] = T(0.25);
  auto descending = values;
  std::sort(descending.rbegin(), descending.rend());
  for (int rank = 1; rank <= 100; ++rank) {
    const auto key = detail::nth_largest_key<T>(
        100, rank, [&](int i) { return detail::order_key(values[static_cast<std::size_t>(i)]); });
    CHECK(detail::from_order_key<T>(key) == descending[static_cast<std::size_t>(rank - 1)]);
  }
}
