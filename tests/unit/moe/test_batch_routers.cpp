// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// Routers that look at a group of tokens, against numbers computed apart from the library
// (tests/reference/make_batch_routers.py).
#include "support/catch.hpp"
#include "support/lone_router.hpp"
#include "support/reference_file.hpp"

#include <cmath>
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
