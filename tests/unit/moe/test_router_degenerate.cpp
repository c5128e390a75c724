// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "support/catch.hpp"
#include "support/lone_router.hpp"

#include <cmath>
#include <limits>
#include <set>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

struct Form {
  const char* router;
  int k;
  RouterOptions options{};
};

std::vector<Form> forms(int experts) {
  const RouterOptions after({{"softmax", std::string("after")}});
  const RouterOptions grin({{"mask", std::string("sum")}});
  const int two = std::min(2, experts);
  return {{"switch", 1},
          {"sparsemixer", 1},
          {"sparsemixer", 1, grin},
          {"top_k", 1},
          {"top_k", two},
          {"top_k", two, after},
          {"top_k", experts},
          {"top_k", experts, after},
          {"top_k", 1, RouterOptions({{"groups", std::int64_t(experts)}, {"group_limit", std::int64_t(1)}})},
          {"top_k", two,
           RouterOptions({{"groups", std::int64_t(experts == 4 ? 2 : 1)},
                          {"group_limit", std::int64_t(1)},
                          {"group_score", std::string("sum")}})},
          {"xmoe", two},
          {"default_moe", 1},
          {"default_moe", two},
          {"dense_mixture", 1},
          {"sparsemixer", two},
          {"sparsemixer_v2", 1},
          {"sparsemixer_v2", two},
          {"sparsemixer_v2", experts, RouterOptions({{"mask_eps", 0.0}})},
          {"sparsemixer_v2", two, RouterOptions({{"mask", std::string("sum")}})},
          {"sparsemixer_v2_star", two},
          {"euler", 1},
          {"midpoint", two},
          {"heun", experts},
          {"uniform_path", two},
          {"reinforce", two},
          {"straight_through", 1},
          {"reinmax", 1},
          {"reinmax", 1, RouterOptions({{"temperature", 2.0}, {"mask_eps", 0.0}})}};
}

/// Every expert is one of them, and no token has one twice.
template <class T>
void check_experts(const HostRouting<T>& routing, int experts) {
  std::set<std::pair<int, int>> seen;
  for (std::size_t n = 0; n < routing.expert.size(); ++n) {
    REQUIRE(routing.expert[n] >= 0);
    REQUIRE(routing.expert[n] < experts);
    CHECK(seen.emplace(routing.token[n], routing.expert[n]).second);
  }
}

/// A loss for each sequence, for routers that learn from it.
Vector<const double> losses(const PackedStep& step) {
  return device_vector(
      std::vector<double>(static_cast<std::size_t>(step.ctx.tokens.sequences), 0.25));
}

/// A row's gradient is finite and sums to zero, as a softmax' does.
template <class T>
void check_backward(LoneRouter<T>& router, PackedStep& step, const Routing<T>& routing,
                    std::size_t experts) {
  const std::size_t tokens = step.tokens();
  const Matrix<T> d_logits("d_logits", tokens, experts);
  Draw draw(3);
  step.ctx.sequence_loss = losses(step);
  router.backward(step, routing, draw.many<T>(routing.token.extent(0)),
                  draw.many<T>(tokens * experts), d_logits);
  const auto d = on_host(d_logits);
  for (std::size_t t = 0; t < tokens; ++t) {
    double sum = 0;
    for (std::size_t e = 0; e < experts; ++e) sum += static_cast<double>(d[t * experts + e]);
    CHECK(std::abs(sum) < 1e-5);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("finite and infinite logits give probabilities", "[router][degenerate]", float,
                   double) {
  using T = TestType;
  const T i = std::numeric_limits<T>::infinity(), huge = T(1e30),
          most = std::numeric_limits<T>::max(), tiny = std::numeric_limits<T>::denorm_min();
  const std::vector<std::vector<T>> rows = {{0, 0, 0, 0},           {5, 5, 5, 5},
                                            {-5, -5, -5, -5},       {huge, huge, huge, huge},
                                            {huge, -huge, 0, huge}, {-huge, -huge, -huge, -huge},
                                            {most, -most, most, 0}, {tiny, -tiny, 0, tiny},
                                            {i, 0, -i, 1},          {i, i, -i, i},
                                            {-i, -i, -i, -i},       {i, i, i, i},
                                            {-i, -1, -i, -2},       {1e-30f, 0, -1e-30f, 0}};
  for (const auto& row : rows)
    for (const Form& form : forms(4))
      for (const bool training : {true, false}) {
        CAPTURE(row, form.router, form.k, training);
        PackedStep step({3, 1});
        step.ctx.training = training;
        LoneRouter<T> router(form.router, 4, form.k, form.options);
        const Routing<T> routing = router.route(step, repeated(row, 4));
        const auto host = on_host(routing);
        check_experts(host, 4);
        for (std::size_t t = 0; t < 4; ++t) {
          double sum = 0;
          for (std::size_t e = 0; e < 4; ++e)
            sum += static_cast<double>(host.probability[4 * t + e]);
          CHECK(sum == Approx(1));
        }
        for (const T w : host.weight) {
          CHECK(w >= T(0));
          CHECK(w <= T(1));
        }
        // One slot of a one-hot gate's evaluation says nothing of the other experts.
        const bool one_hot = router.router().estimator().objective == Objective::plain;
        if (training || !one_hot) check_backward(router, step, routing, 4);
      }
}

TEMPLATE_TEST_CASE("the largest logit has a weight and ties go to the lowest index",
                   "[router][degenerate]", float, double) {
  using T = TestType;
  const T i = std::numeric_limits<T>::infinity();
  const auto first = [](const char* name, const std::vector<T>& row) {
    PackedStep step({1});
    step.ctx.training = false;
    LoneRouter<T> router(name, 4, 1);
    const auto routing = on_host(router.route(step, row));
    return std::pair(routing.expert[0], routing.weight[0]);
  };
  for (const char* name : {"switch", "sparsemixer", "top_k"}) {
    CAPTURE(name);
    CHECK(first(name, {2, 2, 2, 2}) == std::pair(0, T(0.25)));
    CHECK(first(name, {0, i, 3, -i}) == std::pair(1, T(1)));
    CHECK(first(name, {0, i, 3, i}) == std::pair(1, T(0.5)));
    CHECK(first(name, {T(-1e30), 0, 1, T(1e30)}) == std::pair(3, T(1)));
  }
}

TEMPLATE_TEST_CASE("a NaN logit never wins and shows in every probability", "[router][degenerate]",
                   float, double) {
  using T = TestType;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  for (const Form& form : forms(4))
    for (std::size_t place = 0; place < 4; ++place)
      for (const bool training : {true, false}) {
        CAPTURE(form.router, form.k, place, training);
        std::vector<T> row = {T(1), T(1.05), T(0.95), T(1.1)};
        row[place] = nan;
        PackedStep step({40});
        step.ctx.training = training;
        LoneRouter<T> router(form.router, 4, form.k, form.options);
        const auto routing = on_host(router.route(step, repeated(row, 40)));
        check_experts(routing, 4);
        std::size_t finite = 0, won = 0;
        for (const T p : routing.probability) finite += std::isfinite(p) ? 1u : 0u;
        if (routing.slots_per_token < 4)
          for (const int e : routing.expert) won += static_cast<std::size_t>(e) == place ? 1u : 0u;
        CHECK(finite == 0);
        CHECK(won == 0);
      }
}

TEMPLATE_TEST_CASE("a row of NaN has a valid expert and a NaN weight", "[router][degenerate]",
                   float, double) {
  using T = TestType;
  for (const Form& form : forms(4)) {
    CAPTURE(form.router, form.k);
    PackedStep step({2});
    LoneRouter<T> router(form.router, 4, form.k, form.options);
    const auto routing =
        on_host(router.route(step, std::vector<T>(8, std::numeric_limits<T>::quiet_NaN())));
    check_experts(routing, 4);
    for (const T w : routing.weight) CHECK(std::isnan(w));
  }
}

TEMPLATE_TEST_CASE("a NaN row leaves its neighbours alone", "[router][degenerate]", float, double) {
  using T = TestType;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  for (const Form& form : forms(3)) {
    CAPTURE(form.router, form.k);
    PackedStep step({3});
    LoneRouter<T> router(form.router, 3, form.k, form.options);
    const auto clean = on_host(router.route(step, {1, 2, 3, 1, 2, 3, T(0.5), T(0.6), T(0.55)}));
    const auto mixed = on_host(router.route(step, {1, 2, 3, nan, nan, 0, T(0.5), T(0.6), T(0.55)}));
    const auto k = static_cast<std::ptrdiff_t>(clean.slots_per_token);
    for (const std::ptrdiff_t t : {0, 2})
      for (std::ptrdiff_t n = t * k; n < (t + 1) * k; ++n) {
        const auto s = static_cast<std::size_t>(n);
        CHECK(mixed.expert[s] == clean.expert[s]);
        CHECK(mixed.weight[s] == clean.weight[s]);
      }
  }
}

TEMPLATE_TEST_CASE("one expert takes everything with probability one", "[router][degenerate]",
                   float, double) {
  using T = TestType;
  for (const Form& form : forms(1)) {
    CAPTURE(form.router);
    PackedStep step({5});
    LoneRouter<T> router(form.router, 1, 1, form.options);
    const Routing<T> routing = router.route(step, {3, -3, 0, T(1e30), T(-1e-30)});
    const auto host = on_host(routing);
    CHECK(host.expert == std::vector<int>(5, 0));
    CHECK(host.probability == std::vector<T>(5, T(1)));
    CHECK(host.weight == (host.scale.empty() ? std::vector<T>(5, T(1)) : host.scale));
    const ScaleLaw law = router.router().estimator().scale;
    if (law.low_chance == 0 || law.argmax_exception)
      CHECK(host.weight == std::vector<T>(5, T(1)));
    const Matrix<T> d_logits("d_logits", 5, 1);
    step.ctx.sequence_loss = losses(step);
    router.backward(step, routing, std::vector<T>(5, T(2)), {}, d_logits);
    CHECK(on_host(d_logits) == std::vector<T>(5, T(0)));
  }
}

TEMPLATE_TEST_CASE("k = E takes every expert, and the weights sum to one", "[router][degenerate]",
                   float, double) {
  using T = TestType;
  for (const std::string softmax : {"before", "after"}) {
    PackedStep step({7});
    LoneRouter<T> router("top_k", 5, 5, RouterOptions({{"softmax", softmax}}));
    const auto routing = on_host(router.route(step, Draw(2).many<T>(35, 3)));
    check_experts(routing, 5);
    for (std::size_t t = 0; t < 7; ++t) {
      double sum = 0;
      for (std::size_t r = 0; r < 5; ++r) sum += static_cast<double>(routing.weight[5 * t + r]);
      CHECK(sum == Approx(1));
      for (std::size_t r = 1; r < 5; ++r)
        CHECK(routing.weight[5 * t + r] <= routing.weight[5 * t + r - 1]);
    }
  }
}

TEMPLATE_TEST_CASE("no tokens route to nothing", "[router][degenerate]", float, double) {
  using T = TestType;
  for (const Form& form : forms(4)) {
    PackedStep step(std::vector<int>{});
    LoneRouter<T> router(form.router, 4, form.k, form.options);
    const Routing<T> routing = router.route(step, {});
    CHECK(routing.slots() == 0);
    CHECK(router.router().max_slots(0) == 0);
    router.backward(step, routing, {}, {}, Matrix<T>("d_logits", 0, 4));
  }
}
