// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// Routers that look at a group of tokens: degenerate logits, what a group may be, foreign routings.
#include "kokomoe/core/error.hpp"
#include "support/catch.hpp"
#include "support/lone_router.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

using Options = std::map<std::string, OptionValue>;

struct Form {
  const char* router;
  int k;
  Options options{};
};

std::vector<Form> forms(int experts) {
  const int two = std::min(2, experts);
  std::vector<Form> all = {{"base", 1},
                           {"s_base", 1},
                           {"s_base", two},
                           {"s_base", two, {{"softmax", std::string("before")}}},
                           {"s_base", experts},
                           {"expert_choice", 1},
                           {"quantile_balance", 1},
                           {"quantile_balance", two},
                           {"quantile_balance", two, {{"score", std::string("softmax")}}},
                           {"quantile_balance", experts}};
  if (experts > 1) all.push_back({"gshard", 2});
  return all;
}

/// Experts are valid, and no token has one twice.
template <class T>
void check_experts(const HostRouting<T>& routing, int experts) {
  std::set<std::pair<int, int>> seen;
  for (std::size_t n = 0; n < routing.expert.size(); ++n) {
    const int e = routing.expert[n];
    REQUIRE(e >= 0);
    REQUIRE(e <= experts);
    if (e < experts) CHECK(seen.emplace(routing.token[n], e).second);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("batch routers: finite and infinite logits give finite weights and gradients",
                   "[router][batch][degenerate]", float, double) {
  using T = TestType;
  const T i = std::numeric_limits<T>::infinity(), huge = T(1e30),
          most = std::numeric_limits<T>::max(), tiny = std::numeric_limits<T>::denorm_min();
  std::vector<std::vector<T>> rows = {{0, 0, 0, 0},           {5, 5, 5, 5},
                                      {-5, -5, -5, -5},       {huge, huge, huge, huge},
                                      {huge, -huge, 0, huge}, {-huge, -huge, -huge, -huge},
                                      {most, -most, most, 0}, {tiny, -tiny, 0, tiny},
                                      {i, 0, -i, 1},          {i, i, -i, i},
                                      {-i, -i, -i, -i},       {i, i, i, i},
                                      {-i, -1, -i, -2},       {1e-30f, 0, -1e-30f, 0}};
  std::vector<T> mixed;
  for (const auto& row : rows) mixed.insert(mixed.end(), row.begin(), row.end());
  std::vector<std::vector<T>> batches{mixed};
  for (const auto& row : rows) batches.push_back(repeated(row, 14));
  for (std::size_t b = 0; b < batches.size(); ++b)
    for (const Form& form : forms(4))
      for (const bool training : {true, false}) {
        CAPTURE(b, form.router, form.k, training);
        PackedStep step({11, 1, 2});
        step.ctx.training = training;
        LoneRouter<T> router(form.router, 4, form.k, RouterOptions(form.options));
        const Routing<T> routing = router.route(step, batches[b]);
        const auto host = on_host(routing);
        check_experts(host, 4);
        for (std::size_t t = 0; t < 14; ++t) {
          double sum = 0;
          for (std::size_t e = 0; e < 4; ++e)
            sum += static_cast<double>(host.probability[4 * t + e]);
          CHECK(sum == Approx(1));
        }
        for (const T w : host.weight) {
          CHECK(w >= T(0));
          CHECK(w <= T(1));
        }
        const Matrix<T> d_logits("d_logits", 14, 4);
        Draw draw(3);
        router.backward(step, routing, draw.many<T>(host.weight.size()), {}, d_logits);
        CHECK(std::isfinite(largest(on_host(d_logits))));
        for (const T d : on_host(d_logits)) CHECK(std::isfinite(d));
        if (form.router != std::string("base") || !training) continue;
        int load[4] = {};
        for (std::size_t t = 0; t < 11; ++t) ++load[host.expert[t]];
        for (const int l : load) CHECK((l == 2 || l == 3));
      }
}

TEMPLATE_TEST_CASE("batch routers: equal logits go to the lowest, by turns where balanced",
                   "[router][batch][degenerate]", float, double) {
  using T = TestType;
  const auto route = [](const char* name, int k, bool training) {
    PackedStep step({8});
    step.ctx.training = training;
    LoneRouter<T> router(name, 4, k);
    return on_host(router.route(step, std::vector<T>(32, T(0.5)))).expert;
  };
  for (const bool training : {true, false}) {
    CHECK(route("gshard", 2, training) == repeated<int>({0, 1}, 8));
    CHECK(route("s_base", 2, training) == repeated<int>({0, 1}, 8));
    CHECK(route("quantile_balance", 2, training) == repeated<int>({0, 1}, 8));
    // Capacity 4 of 8 tokens: the earlier ones, for every expert.
    auto expected = repeated<int>({0, 1, 2, 3}, 4);
    expected.resize(32, 4);
    CHECK(route("expert_choice", 1, training) == expected);
  }
  CHECK(route("base", 1, false) == std::vector<int>(8, 0));
  auto expert = route("base", 1, true);
  CHECK(expert == route("base", 1, true));
  std::sort(expert.begin(), expert.end());
  CHECK(expert == std::vector<int>{0, 0, 1, 1, 2, 2, 3, 3});
}

TEMPLATE_TEST_CASE("batch routers: NaN shows in its own token alone",
                   "[router][batch][degenerate]", float, double) {
  using T = TestType;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  for (const Form& form : forms(4))
    for (const bool training : {true, false})
      for (const bool whole_row : {true, false}) {
        CAPTURE(form.router, form.k, training, whole_row);
        std::vector<T> logits = Draw(9).many<T>(40 * 4);
        for (std::size_t e = 0; e < 4; ++e)
          if (whole_row || e == 2) logits[4 * 17 + e] = nan;
        PackedStep step({40});
        step.ctx.training = training;
        LoneRouter<T> router(form.router, 4, form.k, RouterOptions(form.options));
        const auto routing = on_host(router.route(step, logits));
        check_experts(routing, 4);
        for (std::size_t t = 0; t < 40; ++t)
          for (std::size_t e = 0; e < 4; ++e)
            CHECK(std::isnan(routing.probability[4 * t + e]) == (t == 17));
        for (std::size_t n = 0; n < routing.weight.size(); ++n) {
          if (routing.token[n] != 17) CHECK(std::isfinite(routing.weight[n]));
          // A balanced assignment may have no other place left; nobody else takes NaN.
          if (!whole_row && routing.slots_per_token < 4 && routing.token[n] == 17)
            CHECK(routing.expert[n] != 2);
        }
      }
}

TEMPLATE_TEST_CASE("batch routers: one expert, no tokens, empty sequences",
                   "[router][batch][degenerate]", float, double) {
  using T = TestType;
  for (const Form& form : forms(1)) {
    CAPTURE(form.router);
    PackedStep step({5});
    LoneRouter<T> router(form.router, 1, 1, RouterOptions(form.options));
    const auto routing = on_host(router.route(step, {3, -3, 0, T(1e30), T(-1e-30)}));
    CHECK(routing.expert == std::vector<int>(5, 0));
  }
  for (const Form& form : forms(4)) {
    CAPTURE(form.router);
    PackedStep none(std::vector<int>{});
    LoneRouter<T> router(form.router, 4, form.k, RouterOptions(form.options));
    const Routing<T> routing = router.route(none, {});
    CHECK(routing.slots() == 0);
    CHECK(router.router().max_slots(0) == 0);
    router.backward(none, routing, {}, {}, Matrix<T>("d_logits", 0, 4));
    PackedStep gaps({3, 0, 2});
    const auto with_gap = on_host(router.route(gaps, Draw(4).many<T>(20)));
    CHECK(with_gap.expert.size() == static_cast<std::size_t>(router.router().max_slots(5)));
    check_experts(with_gap, 4);
  }
}

TEST_CASE("a group's choices do not depend on the other groups", "[router][batch]") {
  for (const Form& form : forms(4)) {
    CAPTURE(form.router, form.k);
    const auto logits = Draw(6).many<double>(30 * 4, 2);
    PackedStep all({12, 11, 7});
    LoneRouter<double> router(form.router, 4, form.k, RouterOptions(form.options));
    const auto whole = on_host(router.route(all, logits)).expert;
    // The middle sequence alone, under its own index.
    std::vector<int> position;
    for (int i = 0; i < 11; ++i) position.push_back(i);
    PackedStep part({}, {}, {0, 11}, std::vector<std::uint32_t>(11, 10), position);
    const auto alone = on_host(router.route(part, {logits.begin() + 48, logits.begin() + 92}));
    const auto per_token = static_cast<std::ptrdiff_t>(alone.slots_per_token);
    CHECK(alone.expert == std::vector<int>(whole.begin() + 12 * per_token,
                                           whole.begin() + 23 * per_token));
  }
}

TEST_CASE("a routing group that does not divide a rank's tokens is refused in training",
          "[router][batch]") {
  RouterPlace place{2, 4, 1, 0, "router"};
  place.routing_group = 8;
  LoneRouter<double> router("base", place);
  PackedStep step({7, 5});
  CHECK_THAT(message_of<InputError>([&] { router.route(step, std::vector<double>(48, 0)); }),
             contains("8 tokens") && contains("12 tokens"));
  step.ctx.training = false;
  LoneRouter<double> choice("expert_choice", place);
  CHECK_NOTHROW(choice.route(step, std::vector<double>(48, 0)));
}

TEST_CASE("a routing of another router is not replayed", "[router][batch]") {
  PackedStep step({6});
  LoneRouter<double> gshard("gshard", 4, 2), base("base", 4, 1), s_base("s_base", 4, 3),
      choice("expert_choice", 4, 1), quantile("quantile_balance", 4, 3);
  const auto logits = Draw(1).many<double>(24);
  const Routing<double> two = gshard.route(step, logits).clone(ExecutionSpace());
  for (LoneRouter<double>* other : {&base, &s_base, &choice, &quantile})
    CHECK_THROWS_AS(other->route(step, logits, &two), Error);
  const Routing<double> one = base.route(step, logits).clone(ExecutionSpace());
  CHECK_THROWS_AS(gshard.route(step, logits, &one), Error);
}
