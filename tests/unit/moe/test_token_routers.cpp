// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// What moves between steps, what is drawn, degenerate logits and options.
#include "support/catch.hpp"
#include "support/layer_rig.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

std::string refusal(const std::string& router, const RouterOptions& options, int k = 1,
                    int experts = 8) {
  const auto found = impossible_router(router, {4, experts, k, 0, "router"}, options);
  return found ? found->key + ": " + found->reason : "";
}

RouterOptions group_options(int groups, int limit) {
  return RouterOptions(
      {{"groups", std::int64_t(groups)}, {"group_limit", std::int64_t(limit)}});
}

template <class T>
void end_step(LoneRouter<T>& router, PackedStep& step, const std::vector<double>& counts,
              double tokens) {
  router.router().end_step(step.ctx, {device_vector(counts), tokens});
}

template <class T>
std::vector<T> with_noise_columns(const std::vector<T>& rows, std::size_t experts, T noise) {
  std::vector<T> result;
  for (std::size_t t = 0; t < rows.size() / experts; ++t) {
    result.insert(result.end(), rows.begin() + static_cast<std::ptrdiff_t>(t * experts),
                  rows.begin() + static_cast<std::ptrdiff_t>((t + 1) * experts));
    result.insert(result.end(), experts, noise);
  }
  return result;
}

}  // namespace

TEMPLATE_TEST_CASE("deepseek_v3's bias moves against the load and keeps mean zero",
                   "[router][state]", float, double) {
  using T = TestType;
  PackedStep step({4});
  LoneRouter<T> router("deepseek_v3", 4, 1, RouterOptions({{"bias_rate", 0.125}}));
  CHECK(router.get("bias") == std::vector<T>(4, 0));
  end_step<T>(router, step, {10, 2, 6, 6}, 24);
  CHECK(router.get("bias") == std::vector<T>{T(-0.125), T(0.125), 0, 0});
  end_step<T>(router, step, {9, 1, 1, 1}, 12);
  // -1/8 -1/8, and +1/8 for the three: moved by 1/4 in the mean, which is taken out.
  CHECK(router.get("bias") ==
        std::vector<T>{T(-0.3125), T(0.1875), T(0.0625), T(0.0625)});
  end_step<T>(router, step, {3, 3, 3, 3}, 12);
  CHECK(router.get("bias") == std::vector<T>{T(-0.3125), T(0.1875), T(0.0625), T(0.0625)});
  end_step<T>(router, step, {0, 0, 0, 0}, 0);
  CHECK(router.get("bias")[1] == T(0.1875));
}

TEST_CASE("deepseek_v3's bias evens out a skewed load", "[router][state]") {
  PackedStep step({512});
  LoneRouter<double> router("deepseek_v3", 4, 1, RouterOptions({{"bias_rate", 0.01}}));
  std::vector<double> logits = Draw(3).many<double>(4 * 512);
  for (std::size_t t = 0; t < 512; ++t) logits[4 * t] += 1;
  std::vector<double> counts;
  for (int i = 0; i < 100; ++i) {
    counts.assign(4, 0);
    for (const int e : on_host(router.route(step, logits).expert))
      counts[static_cast<std::size_t>(e)] += 1;
    if (i == 0) CHECK(counts[0] > 300);
    end_step<double>(router, step, counts, 512);
  }
  for (const double count : counts) CHECK(std::abs(count - 128) < 20);
}

TEMPLATE_TEST_CASE("remoe's lambda grows while too many experts are active", "[router][state]",
                   float, double) {
  using T = TestType;
  PackedStep step({4});
  LoneRouter<T> router("remoe", 4, 2, RouterOptions({{"regularization", 0.5}, {"growth", 2.0}}));
  end_step<T>(router, step, {10, 2, 6, 6}, 10);  // 24 > 20
  CHECK(router.get("lambda")[0] == T(1));
  end_step<T>(router, step, {10, 2, 4, 4}, 10);
  CHECK(router.get("lambda")[0] == T(1));
  end_step<T>(router, step, {10, 0, 0, 0}, 10);
  end_step<T>(router, step, {0, 0, 0, 0}, 10);
  CHECK(router.get("lambda")[0] == T(0.25));
  for (int i = 0; i < 3000; ++i) end_step<T>(router, step, {0, 0, 0, 0}, 10);
  CHECK(router.get("lambda")[0] > T(0));
}

TEMPLATE_TEST_CASE("default_moe's table follows the mean outputs of an update", "[router][state]",
                   float, double) {
  using T = TestType;
  constexpr std::size_t experts = 4, d = 5;
  PackedStep step({9});
  LoneRouter<T> router("default_moe", RouterPlace{5, 4, 2, 0, "router"},
                       RouterOptions({{"decay", 0.75}}));
  std::vector<T> table = Draw(7).many<T>(experts * d);
  router.set("mean_output", table);
  for (const int micro_batches : {1, 3}) {
    std::vector<double> sums(experts * d, 0), count(experts, 0);
    for (int a = 0; a < micro_batches; ++a) {
      auto logits = Draw(static_cast<std::uint64_t>(20 + a)).many<T>(9 * experts);
      for (std::size_t t = 0; t < 9; ++t) logits[4 * t + 2] = -9;  // expert 2 sees no token
      const Routing<T> routing = router.route(step, logits);
      // Rows sorted by expert, as dispatch has them.
      const auto expert = on_host(routing.expert);
      std::vector<int> slot(expert.size());
      std::iota(slot.begin(), slot.end(), 0);
      std::stable_sort(slot.begin(), slot.end(), [&](int m, int n) {
        return expert[static_cast<std::size_t>(m)] < expert[static_cast<std::size_t>(n)];
      });
      const auto out = Draw(static_cast<std::uint64_t>(90 + a)).many<T>(slot.size() * d);
      for (std::size_t r = 0; r < slot.size(); ++r) {
        const auto e = static_cast<std::size_t>(expert[static_cast<std::size_t>(slot[r])]);
        count[e] += 1;
        for (std::size_t c = 0; c < d; ++c)
          sums[e * d + c] += static_cast<double>(out[r * d + c]);
      }
      router.router().after_experts(step.ctx, routing, device_matrix<T>(slot.size(), d, out),
                                    device_vector(slot));
      Kokkos::fence();
    }
    end_step<T>(router, step, count, 9);
    CHECK(count[2] == 0);
    std::vector<T> expected = table;
    for (std::size_t e = 0; e < experts; ++e)
      for (std::size_t c = 0; count[e] > 0 && c < d; ++c)
        expected[e * d + c] = static_cast<T>(0.75 * static_cast<double>(table[e * d + c]) +
                                             0.25 * sums[e * d + c] / count[e]);
    table = router.get("mean_output");
    CHECK(worst_error(table, expected) < (std::is_same_v<T, float> ? 1e-6 : 1e-15));
  }
  // Nothing is left over for a step without tokens.
  end_step<T>(router, step, {0, 0, 0, 0}, 0);
  CHECK(router.get("mean_output") == table);
}

TEST_CASE("default_moe learns from training alone, and from what ran", "[layer][state]") {
  MoeConfig config = small_config("default_moe");
  config.capacity_factor = 0.5;
  LayerRig<double> rig(config, {8, 4});
  const auto table = rig.value("router.mean_output");
  const auto finish = [&] {
    rig.layer.end_step(rig.step.ctx, {Vector<double>("counts", 4), 12});
    Kokkos::fence();
    return rig.value("router.mean_output");
  };
  rig.step.ctx.training = false;
  rig.forward();
  CHECK(finish() == table);
  rig.step.ctx.training = true;
  rig.forward();
  const Routing<double> recorded = rig.saved.routing.clone(ExecutionSpace());
  CHECK(on_host(recorded.dropped) != std::vector<unsigned char>(12, 0));
  CHECK(finish() != table);
  const auto moved = rig.value("router.mean_output");
  rig.forward(&recorded);
  CHECK(finish() == moved);

  // y of a token whose expert was dropped is that of the table alone.
  const auto y = on_host(rig.y), p = on_host(rig.saved.routing.probability);
  const auto dropped = on_host(recorded.dropped);
  const auto t = static_cast<std::size_t>(
      std::find(dropped.begin(), dropped.end(), 1) - dropped.begin());
  for (std::size_t c = 0; c < 5; ++c) {
    double sum = 0;
    for (std::size_t e = 0; e < 4; ++e) sum += p[4 * t + e] * moved[5 * e + c];
    CHECK(std::abs(y[5 * t + c] - sum) < 1e-14);
  }
}

TEMPLATE_TEST_CASE("the noise of noisy_top_k is normal, and its chances are frequencies",
                   "[router][sampling]", float, double) {
  using T = TestType;
  constexpr std::size_t experts = 6, k = 2;
  PackedStep step(std::vector<int>(64, 1024));
  const std::size_t tokens = step.tokens();
  const auto n = static_cast<double>(tokens);
  LoneRouter<T> router("noisy_top_k", 6, 2);
  const std::vector<T> row = {T(0.5), T(0.1), T(-0.7), T(0.3), T(-0.2), T(1)};
  const auto rows = with_noise_columns<T>(repeated(row, tokens), experts, T(0.4));
  const Routing<T> routing = router.route(step, rows);
  const auto noise = on_host(routing.extra);
  // Bounds are the 0.1 % points, and the seed is fixed.
  std::array<double, 4> moments{};
  double neighbours = 0;
  for (std::size_t i = 0; i < tokens * experts; ++i) {
    double power = 1;
    for (double& moment : moments) moment += power *= static_cast<double>(noise[i]);
    if (i % 2 == 0) neighbours += static_cast<double>(noise[i]) * static_cast<double>(noise[i + 1]);
  }
  const double all = n * experts;
  CHECK(std::abs(moments[0] / all) < 3.29 / std::sqrt(all));
  CHECK(std::abs(moments[1] / all - 1) < 3.29 * std::sqrt(2 / all));
  CHECK(std::abs(moments[2] / all) < 3.29 * std::sqrt(15 / all));
  CHECK(std::abs(moments[3] / all - 3) < 3.29 * std::sqrt(96 / all));
  CHECK(std::abs(neighbours / (all / 2)) < 3.29 / std::sqrt(all / 2));

  // P_te is the chance that e is chosen when its noise alone is drawn again, so its mean over tokens
  // is how often e is chosen: written out here once more.
  std::vector<double> chosen(experts, 0), expected(experts, 0), variance(experts, 0);
  const auto expert = on_host(routing.expert);
  for (const int e : expert) chosen[static_cast<std::size_t>(e)] += 1;
  const double deviation = std::log1p(std::exp(static_cast<double>(T(0.4))));
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t e = 0; e < experts; ++e) {
      std::vector<double> others;
      for (std::size_t i = 0; i < experts; ++i)
        if (i != e)
          others.push_back(static_cast<double>(row[i]) +
                           static_cast<double>(noise[t * experts + i]) * deviation);
      std::sort(others.rbegin(), others.rend());
      const double p = 0.5 * std::erfc((others[k - 1] - static_cast<double>(row[e])) / deviation /
                                       std::sqrt(2.0));
      expected[e] += p;
      variance[e] += p * (1 - p);
    }
  for (std::size_t e = 0; e < experts; ++e)
    CHECK(std::abs(chosen[e] - expected[e]) < 3.29 * std::sqrt(variance[e]));
  // The reported loss is that of these sums.
  const auto variation = [](const std::vector<double>& x) {
    double sum = 0, squares = 0;
    for (const double v : x) {
      sum += v;
      squares += v * v;
    }
    return squares * static_cast<double>(x.size()) / (sum * sum) - 1;
  };
  std::vector<double> importance(experts, 0);
  const auto weight = on_host(routing.weight);
  for (std::size_t s = 0; s < expert.size(); ++s)
    importance[static_cast<std::size_t>(expert[s])] += static_cast<double>(weight[s]);
  const Vector<double> own("own", 1);
  router.router().add_auxiliary_loss(step.ctx, routing, own);
  Kokkos::fence();
  CHECK(on_host(own)[0] / n ==
        Approx(0.1 * variation(importance) + 0.1 * variation(expected)).epsilon(1e-4));

  step.ctx.training = false;
  const auto quiet = on_host(router.route(step, rows));
  for (std::size_t t = 0; t < tokens; ++t) REQUIRE(quiet.expert[2 * t] == 5);
}

TEST_CASE("equal noisy logits are chosen evenly, and by token", "[router][sampling]") {
  PackedStep step(std::vector<int>(16, 1024));
  LoneRouter<double> router("noisy_top_k", 8, 1);
  const std::vector<double> rows(16 * step.tokens(), 0);
  const auto all = on_host(router.route(step, rows));
  std::vector<double> count(8, 0);
  for (const int e : all.expert) count[static_cast<std::size_t>(e)] += 1;
  double chi2 = 0;
  const double even = static_cast<double>(step.tokens()) / 8;
  for (const double c : count) chi2 += (c - even) * (c - even) / even;
  CHECK(chi2 < 24.32);  // 7 degrees of freedom
  // Sequence 1 alone.
  std::vector<int> position(1024);
  std::iota(position.begin(), position.end(), 0);
  PackedStep part({}, {}, {0, 1024}, std::vector<std::uint32_t>(1024, 10), position);
  const auto alone = on_host(router.route(part, std::vector<double>(16 * 1024, 0)));
  CHECK(alone.expert ==
        std::vector<int>(all.expert.begin() + 1024, all.expert.begin() + 2048));
  CHECK(alone.weight == std::vector<double>(1024, 1.0));
}

TEMPLATE_TEST_CASE("degenerate logits have a defined result", "[router][degenerate]", float,
                   double) {
  using T = TestType;
  const T i = std::numeric_limits<T>::infinity(), huge = T(1e30),
          most = std::numeric_limits<T>::max();
  const std::vector<std::vector<T>> rows = {
      {0, 0, 0, 0},          {huge, -huge, 0, huge}, {-huge, -huge, -huge, -huge},
      {most, -most, most, 0}, {i, 0, -i, 1},         {i, i, -i, i},
      {-i, -i, -i, -i},      {i, i, i, i},           {-i, -1, -i, -2}};
  for (const auto& row : rows)
    for (const std::string name : {"noisy_top_k", "deepseek_v3"})
      for (const int k : {1, 2, 4})
        for (const T noise : {T(0), -huge, T(-200)})
          for (const bool training : {true, false}) {
            CAPTURE(row, name, k, noise, training);
            PackedStep step({3, 1});
            step.ctx.training = training;
            LoneRouter<T> router(name, 4, k);
            const bool noisy = name == "noisy_top_k";
            const auto all = repeated(row, 4);
            const Routing<T> routing =
                router.route(step, noisy ? with_noise_columns<T>(all, 4, noise) : all);
            const auto host = on_host(routing);
            std::set<std::pair<int, int>> seen;
            for (std::size_t n = 0; n < host.expert.size(); ++n) {
              REQUIRE(host.expert[n] >= 0);
              REQUIRE(host.expert[n] < 4);
              REQUIRE(seen.emplace(host.token[n], host.expert[n]).second);
            }
            double weight = 0, probability = 0;
            for (const T w : host.weight) weight += static_cast<double>(w);
            for (const T p : host.probability) probability += static_cast<double>(p);
            CHECK(weight == Approx(4));
            CHECK(probability == Approx(4));
            const Matrix<T> d_logits("d_logits", 4, noisy ? 8 : 4);
            Draw draw(3);
            router.backward(step, routing, draw.many<T>(host.weight.size()), draw.many<T>(16),
                            d_logits);
            for (const T d : on_host(d_logits)) REQUIRE(std::isfinite(d));
            const Vector<double> own("own", 1);
            router.router().add_auxiliary_loss(step.ctx, routing, own);
            Kokkos::fence();
            CHECK(std::isfinite(on_host(own)[0]));
          }
}

TEMPLATE_TEST_CASE("NaN logits lose and show", "[router][degenerate]", float, double) {
  using T = TestType;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  for (const std::string name : {"noisy_top_k", "deepseek_v3"})
    for (const int k : {1, 2})
      for (std::size_t place = 0; place < 4; ++place) {
        CAPTURE(name, k, place);
        std::vector<T> row = {T(1), T(1.05), T(0.95), T(1.1)};
        row[place] = nan;
        PackedStep step({20});
        LoneRouter<T> router(name, 4, k);
        auto rows = repeated(row, 20);
        if (name == "noisy_top_k") rows = with_noise_columns<T>(rows, 4, T(0));
        const auto routing = on_host(router.route(step, rows));
        for (const int e : routing.expert) CHECK(static_cast<std::size_t>(e) != place);
        for (const T p : routing.probability) CHECK(std::isnan(p));
      }
  PackedStep step({1});
  LoneRouter<T> router("remoe", 4, 2);
  const auto routing = on_host(router.route(step, {nan, -1, 2, 0}));
  CHECK(routing.expert == std::vector<int>{0, 4, 2, 4});
  CHECK(std::isnan(routing.weight[0]));
}

TEMPLATE_TEST_CASE("no tokens and no active expert route to nothing", "[router][degenerate]", float,
                   double) {
  using T = TestType;
  for (const std::string name :
       {"noisy_top_k", "deepseek_v3", "remoe", "default_moe", "xmoe", "hash"}) {
    CAPTURE(name);
    PackedStep step(std::vector<int>{});
    LoneRouter<T> router(name, 4, 1);
    const Routing<T> routing = router.route(step, {});
    CHECK(routing.slots() == 0);
    CHECK(router.router().max_slots(0) == 0);
    const Vector<double> own("own", 1);
    router.router().add_auxiliary_loss(step.ctx, routing, own);
    Kokkos::fence();
    CHECK(on_host(own)[0] == 0);
    router.backward(step, routing, {}, {},
                    Matrix<T>("d_logits", 0,
                              static_cast<std::size_t>(router.router().logit_columns())));
    MoeConfig config = small_config(name);
    LayerRig<T> rig(config, {});
    rig.forward();
    rig.backward();
  }
  // All of ReLU's experts off: the layer gives zeros.
  LayerRig<T> rig(small_config("remoe"), {3});
  fill_device(rig.store.value_vector(rig.store.find("moe.router.weight")), std::vector<T>(20, 0));
  rig.forward();
  rig.backward();
  CHECK(on_host(rig.y) == std::vector<T>(15, 0));
  CHECK(on_host(rig.dx) == std::vector<T>(15, 0));
}

TEST_CASE("group limits are refused where they cannot be", "[router][options]") {
  for (const std::string router : {"top_k", "deepseek_v3"}) {
    CAPTURE(router);
    CHECK_THAT(refusal(router, group_options(3, 1)), contains("groups: 3 groups do not divide 8"));
    CHECK_THAT(refusal(router, group_options(4, 5)), contains("group_limit: 5 groups of 4"));
    CHECK_THAT(refusal(router, group_options(4, 1), 3),
               contains("group_limit: k = 3") && contains("1 groups of 2"));
    CHECK(refusal(router, group_options(4, 2), 4).empty());
    CHECK(refusal(router, group_options(4, 0), 8).empty());
    CHECK(refusal(router, group_options(8, 1), 1).empty());
  }
}
