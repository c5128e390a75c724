// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// Routers that look at a group of tokens, against numbers computed apart from the library
// (tests/reference/make_batch_routers.py), and on degenerate logits.
#include "kokomoe/core/error.hpp"
#include "support/catch.hpp"
#include "support/lone_router.hpp"
#include "support/reference_file.hpp"

#include <cmath>
#include <limits>
#include <set>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

using Options = std::map<std::string, OptionValue>;

const kokomoe::testing::ReferenceFile& reference() {
  static const kokomoe::testing::ReferenceFile file(KOKOMOE_TEST_FOLDER
                                                    "/reference/batch_routers.kkref");
  return file;
}

constexpr const char* sets[] = {"sequences",   "runs",       "few_tokens", "two_experts",
                                "one_expert",  "one_token",  "larger"};

template <class T>
constexpr double tolerance = std::is_same_v<T, float> ? 1e-5 : 1e-12;

/// One set of the file with its logits and groups.
template <class T>
struct Case {
  explicit Case(const std::string& name)
      : at(name + "/"),
        lengths(reference().i4(at + "lengths")),
        group(reference().i4(at + "routing_group")[0]),
        logits(reference().template real<T>(at + "logits")),
        tokens(reference().shape(at + "logits")[0]),
        experts(reference().shape(at + "logits")[1]) {}

  /// (begin, end) of each group.
  std::vector<std::pair<std::size_t, std::size_t>> groups() const {
    std::vector<std::pair<std::size_t, std::size_t>> result;
    std::size_t begin = 0;
    for (const int length : lengths) {
      result.emplace_back(begin, begin + static_cast<std::size_t>(length));
      begin = result.back().second;
    }
    if (group == 0) return result;
    result.clear();
    const auto size = static_cast<std::size_t>(group);
    for (begin = 0; begin < tokens; begin += size) result.emplace_back(begin, begin + size);
    return result;
  }

  LoneRouter<T> router(const std::string& name, int k, const Options& options = {},
                       double factor = 0) const {
    RouterPlace place{2, static_cast<int>(experts), k, 2, "router"};
    place.routing_group = group;
    place.capacity_factor = factor;
    return LoneRouter<T>(name, place, RouterOptions(options));
  }
  std::vector<T> real(const std::string& record) const {
    return reference().template real<T>(at + record);
  }

  std::string at;
  std::vector<int> lengths;
  int group;
  std::vector<T> logits;
  std::size_t tokens, experts;
};

/// Backward twice: it adds.
template <class T>
void check_backward(const Case<T>& c, PackedStep& step, LoneRouter<T>& router,
                    const Routing<T>& routing, const std::vector<T>& d_weight,
                    std::vector<T> expected) {
  const Matrix<T> d_logits("d_logits", c.tokens, c.experts);
  router.backward(step, routing, d_weight, {}, d_logits);
  CHECK(worst_error(on_host(d_logits), expected, 1.0) < tolerance<T>);
  router.backward(step, routing, d_weight, {}, d_logits);
  for (T& value : expected) value *= 2;
  CHECK(worst_error(on_host(d_logits), expected, 1.0) < tolerance<T>);
}

/// Replayed in another step on the same logits, the result is the same to the bit.
template <class T>
void check_replay(const Case<T>& c, PackedStep& step, LoneRouter<T>& router,
                  const Routing<T>& routing) {
  const Routing<T> recorded = routing.clone(ExecutionSpace());
  step.ctx.step += 1;
  step.ctx.seed += 1;
  const Routing<T> again = router.route(step, c.logits, &recorded);
  CHECK(on_host(again.expert) == on_host(recorded.expert));
  CHECK(on_host(again.weight) == on_host(recorded.weight));
  CHECK(on_host(again.probability) == on_host(recorded.probability));
  CHECK(on_host(again.dropped) == on_host(recorded.dropped));
  CHECK(on_host(again.counted) == on_host(recorded.counted));
  step.ctx.step -= 1;
  step.ctx.seed -= 1;
}

template <class T>
void check_variant(const Case<T>& c, const std::string& record, const std::string& name, int k,
                   const Options& options, bool training) {
  CAPTURE(c.at, record);
  PackedStep step(c.lengths);
  step.ctx.training = training;
  LoneRouter<T> router = c.router(name, k, options);
  const Routing<T> routing = router.route(step, c.logits);
  CHECK(on_host(routing.expert) == reference().i4(c.at + record + "/expert"));
  CHECK(worst_error(on_host(routing.weight), c.real(record + "/weight")) < tolerance<T>);
  check_backward(c, step, router, routing, c.real("dweight_" + std::to_string(k)),
                 c.real(record + "/dlogits"));
  check_replay(c, step, router, routing);
}

std::vector<int> counts_of(std::size_t experts) {
  const int e = static_cast<int>(experts);
  std::set<int> k{1, std::min(2, e), e < 8 ? e : 1};
  return {k.begin(), k.end()};
}

}  // namespace

TEMPLATE_TEST_CASE("gshard gives the reference's choices, weights and gradients",
                   "[router][batch][reference]", double, float) {
  using T = TestType;
  for (const char* set : sets) {
    const Case<T> c(set);
    if (c.experts < 2) continue;
    for (const bool training : {true, false}) {
      const std::string record = training ? "gshard_train" : "gshard_eval";
      check_variant(c, record, "gshard", 2, {}, training);
      PackedStep step(c.lengths);
      step.ctx.training = training;
      LoneRouter<T> router = c.router("gshard", 2);
      const Routing<T> routing = router.route(step, c.logits);
      CHECK(worst_error(on_host(routing.probability), c.real(record + "/probability")) <
            tolerance<T>);
      if (training) {
        const auto dropped = on_host(routing.dropped);
        CHECK(std::vector<int>(dropped.begin(), dropped.end()) ==
              reference().i4(c.at + record + "/dropped"));
      } else {
        CHECK(routing.dropped.extent(0) == 0);
      }
      const auto counted = on_host(routing.counted);
      for (std::size_t n = 0; n < counted.size(); ++n) CHECK(counted[n] == (n % 2 == 0 ? 1 : 0));
      const Matrix<T> d_logits("d_logits", c.tokens, c.experts);
      router.backward(step, routing, std::vector<T>(2 * c.tokens, 0), c.real("dP"), d_logits);
      CHECK(worst_error(on_host(d_logits), c.real(record + "/dlogits_from_dP"), 1.0) <
            tolerance<T>);
    }
    check_variant(c, "gshard_eval", "gshard", 2, {{"sampling", false}}, true);
  }
}

TEST_CASE("gshard keeps second choices with probability 2 g", "[router][batch][sampling]") {
  PackedStep step({4000, 4000});
  LoneRouter<double> router("gshard", 3, 2);
  for (const double gap : {0.0, 0.5, 2.0, 5.0}) {
    const Routing<double> routing =
        router.route(step, repeated<double>({0.0, gap, -9.0}, step.tokens()));
    const auto dropped = on_host(routing.dropped);
    double kept = 0, first = 0;
    for (std::size_t n = 0; n < dropped.size(); ++n)
      (n % 2 == 0 ? first : kept) += dropped[n] == 0 ? 1 : 0;
    const double n = static_cast<double>(step.tokens()), p = 2 / (1 + std::exp(gap));
    CAPTURE(gap);
    CHECK(first == n);
    CHECK(std::abs(kept - n * p) <= 3.29 * std::sqrt(n * p * (1 - p)));
  }
}

TEMPLATE_TEST_CASE("base assigns evenly, and as well as scipy to within epsilon",
                   "[router][batch][reference]", double, float) {
  using T = TestType;
  const auto check = [](const std::vector<int>& expert, const std::vector<T>& logits,
                        std::size_t experts, std::size_t begin, std::size_t end, double objective,
                        double spread, double epsilon) {
    const std::size_t n = end - begin;
    std::vector<std::size_t> load(experts, 0);
    double sum = 0;
    for (std::size_t t = begin; t < end; ++t) {
      ++load[static_cast<std::size_t>(expert[t])];
      sum += static_cast<double>(logits[t * experts + static_cast<std::size_t>(expert[t])]);
    }
    for (const std::size_t l : load) {
      CHECK(l >= n / experts);
      CHECK(l <= (n + experts - 1) / experts);
    }
    const double places = static_cast<double>((n + experts - 1) / experts * experts);
    CHECK(sum <= objective + 1e-9 * std::abs(objective));
    CHECK(sum >= objective - places * epsilon * spread - 1e-9 * std::abs(objective));
  };
  for (const double epsilon : {1e-1, 1e-3, 1e-7}) {
    for (const char* set : sets) {
      const Case<T> c(set);
      CAPTURE(set, epsilon);
      PackedStep step(c.lengths);
      LoneRouter<T> router = c.router("base", 1, {{"epsilon", epsilon}});
      const Routing<T> routing = router.route(step, c.logits);
      const auto expert = on_host(routing.expert);
      const auto objective = reference().f8(c.at + "base_train/objective"),
                 spread = reference().f8(c.at + "base_train/spread");
      const auto groups = c.groups();
      for (std::size_t g = 0; g < groups.size(); ++g)
        check(expert, c.logits, c.experts, groups[g].first, groups[g].second, objective[g],
              spread[g], epsilon);
      const auto sigmoid = c.real("base_train/sigmoid"), slope = c.real("base_train/slope"),
                 d_weight = c.real("dweight_1");
      std::vector<T> weight, d_logits(c.logits.size(), 0);
      for (std::size_t t = 0; t < c.tokens; ++t) {
        const std::size_t i = t * c.experts + static_cast<std::size_t>(expert[t]);
        weight.push_back(sigmoid[i]);
        d_logits[i] = d_weight[t] * slope[i];
      }
      CHECK(worst_error(on_host(routing.weight), weight) < tolerance<T>);
      check_backward(c, step, router, routing, d_weight, d_logits);
      check_replay(c, step, router, routing);
    }
    for (int i = 0; i < 5; ++i) {
      const std::string at = "assignment/" + std::to_string(i) + "/";
      const auto lengths = reference().i4(at + "lengths");
      const auto logits = reference().template real<T>(at + "logits");
      const std::size_t experts = reference().shape(at + "logits")[1];
      CAPTURE(i, epsilon);
      PackedStep step(lengths);
      LoneRouter<T> router("base", static_cast<int>(experts), 1,
                           RouterOptions({{"epsilon", epsilon}}));
      const auto expert = on_host(router.route(step, logits)).expert;
      std::size_t begin = 0;
      for (std::size_t g = 0; g < lengths.size(); ++g) {
        const std::size_t end = begin + static_cast<std::size_t>(lengths[g]);
        check(expert, logits, experts, begin, end, reference().f8(at + "objective")[g],
              reference().f8(at + "spread")[g], epsilon);
        begin = end;
      }
    }
  }
  for (const char* set : sets) check_variant(Case<T>(set), "base_eval", "base", 1, {}, false);
}

TEMPLATE_TEST_CASE("s_base gives the reference's choices, weights and gradients",
                   "[router][batch][reference]", double, float) {
  using T = TestType;
  for (const char* set : sets) {
    const Case<T> c(set);
    for (const int k : counts_of(c.experts))
      for (const bool training : {true, false}) {
        const std::string record =
            "s_base_" + std::to_string(k) + (training ? "_train" : "_eval");
        // The reference scales until it is done; float needs no more than double.
        check_variant(c, record, "s_base", k, {{"iterations", std::int64_t(10000)}}, training);
        if (k > 1)
          check_variant(
              c, record + "_before", "s_base", k,
              {{"iterations", std::int64_t(10000)}, {"softmax", std::string("before")}}, training);
      }
  }
}

TEMPLATE_TEST_CASE("expert_choice gives the reference's choices, weights and gradients",
                   "[router][batch][reference]", double, float) {
  using T = TestType;
  for (const char* set : sets) {
    const Case<T> c(set);
    for (const auto& [factor, record] :
         {std::pair(0.0, "expert_choice_0.0/"), std::pair(0.6, "expert_choice_0.6/"),
          std::pair(1.0, "expert_choice_1.0/")})
      for (const bool training : {true, false}) {
        CAPTURE(set, factor, training);
        PackedStep step(c.lengths);
        step.ctx.training = training;
        LoneRouter<T> router = c.router("expert_choice", 1, {}, factor);
        const Routing<T> routing = router.route(step, c.logits);
        REQUIRE(routing.slots_per_token == static_cast<int>(c.experts));
        std::vector<int> expert = reference().i4(c.at + record + "chosen");
        const int none = static_cast<int>(c.experts);
        for (std::size_t n = 0; n < expert.size(); ++n)
          expert[n] = expert[n] == 1 ? static_cast<int>(n % c.experts) : none;
        CHECK(on_host(routing.expert) == expert);
        CHECK(worst_error(on_host(routing.weight), c.real(std::string(record) + "weight")) <
              tolerance<T>);
        CHECK(worst_error(on_host(routing.probability),
                          c.real(std::string(record) + "probability")) < tolerance<T>);
        check_backward(c, step, router, routing, c.real("dweight_all"),
                       c.real(std::string(record) + "dlogits"));
        check_replay(c, step, router, routing);
      }
  }
}

TEMPLATE_TEST_CASE("quantile_balance gives the reference's choices, weights and gradients",
                   "[router][batch][reference]", double, float) {
  using T = TestType;
  for (const char* set : sets) {
    const Case<T> c(set);
    for (const int k : counts_of(c.experts))
      for (const std::string score : {"sigmoid", "softmax"})
        for (const bool training : {true, false})
          check_variant(c, "quantile_balance_" + std::to_string(k) + "_" + score,
                        "quantile_balance", k, {{"score", score}}, training);
  }
}

TEST_CASE("quantile_balance and s_base level a one-sided load", "[router][batch]") {
  PackedStep step({512, 256});
  std::vector<double> logits = Draw(3).many<double>(768 * 8, 2);
  for (std::size_t t = 0; t < 768; ++t) logits[8 * t] += 2;
  const auto largest_load = [&](const char* name, int k, const Options& options) {
    LoneRouter<double> router(name, 8, k, RouterOptions(options));
    const auto expert = on_host(router.route(step, logits)).expert;
    std::vector<int> load(8, 0);
    for (std::size_t n = 0; n < 512 * static_cast<std::size_t>(k); ++n)
      ++load[static_cast<std::size_t>(expert[n])];
    return *std::max_element(load.begin(), load.end());
  };
  CHECK(largest_load("top_k", 2, {}) > 300);
  CHECK(largest_load("quantile_balance", 2, {{"iterations", std::int64_t(32)}}) <= 130);
  CHECK(largest_load("quantile_balance", 1, {{"iterations", std::int64_t(32)}}) <= 66);
  CHECK(largest_load("s_base", 1, {}) < 110);
}

namespace {

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
