// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/nn/optimizer.hpp"
#include "support/bfloat16.hpp"
#include "support/catch.hpp"
#include "support/host_arrays.hpp"

#include <array>
#include <map>
#include <numbers>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// Decayed, undecayed, frozen, expert and state tensors, larger than a tile of the norm together.
template <class T>
struct Store {
  Store() {
    store.add({"frozen.weight", {50, 60}, Initializer::normal(1), true, false, false});
    store.add({"a.weight", {70, 60}, Initializer::normal(1), true, false, false});
    store.add({"a.bias", {61}, Initializer::normal(1), false, false, false});
    store.add({"experts.w1", {3, 20, 90}, Initializer::normal(1), true, true, false});
    store.add({"experts.b1", {3, 20}, Initializer::normal(1), false, true, false});
    store.add({"experts.frozen", {3, 5}, Initializer::normal(1), false, true, false});
    store.add({"average", {7}, Initializer::normal(1), true, false, true});
    REQUIRE(store.freeze("*frozen*") == 2);
    REQUIRE(store.scale_rate("a.*", 0.5) == 2);
    REQUIRE(store.scale_rate("*.w1", 0.25) == 1);
    store.allocate(ExecutionSpace(), 5);
  }
  std::vector<T> value(const std::string& name) {
    return on_host(store.value_vector(store.find(name)));
  }
  void set_gradients(Draw& draw) {
    for (const auto& entry : store.entries())
      if (!entry.spec.state)
        fill_device(store.gradient_vector(store.find(entry.spec.name)),
                    draw.many<T>(entry.size, 0.1));
  }
  static constexpr std::array<const char*, 4> trained = {"a.weight", "a.bias", "experts.w1",
                                                         "experts.b1"};
  ParameterStore<T> store;
};

/// Of the learning rate, as Store asks for.
double factor_of(const std::string& name) {
  return name.starts_with("a.") ? 0.5 : name.ends_with(".w1") ? 0.25 : 1;
}

}  // namespace

TEST_CASE("an optimizer's step makes copies in bfloat16 anew", "[nn]") {
  const bool sgd = GENERATE(false, true);
  ParameterStore<float> store;
  ParameterSpec spec{"experts.w1", {3, 20, 9}, Initializer::normal(1), true, true};
  spec.rounded = true;
  const ParameterHandle handle = store.add(spec);
  const ExecutionSpace space;
  store.allocate(space, 1);
  const auto before = on_host(store.value(handle));
  Draw draw(1);
  fill_device(store.gradient(handle), draw.many<float>(before.size(), 0.5));
  if (sgd)
    sgd_step<float>(space, {}, 0.1, 1, store);
  else
    adamw_step<float>(space, {}, 0.1, 1, 1, store);
  const auto values = on_host(store.value(handle));
  const auto copies = on_host(store.rounded_value(handle));
  CHECK(values != before);
  for (std::size_t i = 0; i < values.size(); ++i)
    CHECK(static_cast<double>(static_cast<float>(copies[i])) == nearest_bfloat16(values[i]));
}

TEMPLATE_TEST_CASE("AdamW follows its formula, decays what is due and leaves the rest", "[nn]",
                   float, double) {
  const double tolerance = sizeof(TestType) == 4 ? 1e-5 : 1e-13;
  Store<TestType> s;
  const AdamWConfig config{0.9, 0.95, 1e-6, 0.3};
  const std::vector<TestType> frozen = s.value("frozen.weight"),
                              expert_frozen = s.value("experts.frozen"), state = s.value("average");
  std::map<std::string, std::vector<double>> p, m, v;
  for (const char* name : s.trained) {
    const std::vector<TestType> start = s.value(name);
    p[name].assign(start.begin(), start.end());
    m[name].assign(start.size(), 0);
    v[name].assign(start.size(), 0);
  }
  Draw draw(21);
  for (int n = 1; n <= 5; ++n) {
    s.set_gradients(draw);
    const double peak = 0.02 / n, scale = n == 2 ? 0.25 : 1;
    for (const char* name : s.trained) {
      const double rate = peak * factor_of(name);
      const double decay = std::string(name).find(".b") == std::string::npos ? 0.3 : 0;
      const auto gradient = on_host(s.store.gradient_vector(s.store.find(name)));
      for (std::size_t i = 0; i < gradient.size(); ++i) {
        const double g = scale * static_cast<double>(gradient[i]);
        double& a = m[name][i] = 0.9 * m[name][i] + 0.1 * g;
        double& b = v[name][i] = 0.95 * v[name][i] + 0.05 * g * g;
        p[name][i] -=
            rate * (a / (1 - std::pow(0.9, n)) / (std::sqrt(b / (1 - std::pow(0.95, n))) + 1e-6) +
                    decay * p[name][i]);
      }
    }
    adamw_step<TestType>(ExecutionSpace(), config, peak, scale, n, s.store);
  }
  for (const char* name : s.trained) {
    INFO(name);
    CHECK(worst_error(s.value(name), p[name]) < tolerance);
  }
  CHECK(s.value("frozen.weight") == frozen);
  CHECK(s.value("experts.frozen") == expert_frozen);
  CHECK(s.value("average") == state);
}

TEMPLATE_TEST_CASE("gradient descent follows its formula, decays what is due and leaves the rest",
                   "[nn]", float, double) {
  const double tolerance = sizeof(TestType) == 4 ? 1e-5 : 1e-13;
  Store<TestType> s;
  const std::vector<TestType> frozen = s.value("frozen.weight"), state = s.value("average");
  std::map<std::string, std::vector<double>> p, m;
  for (const char* name : s.trained) {
    const std::vector<TestType> start = s.value(name);
    p[name].assign(start.begin(), start.end());
    m[name].assign(start.size(), 0);
  }
  Draw draw(23);
  for (int n = 1; n <= 5; ++n) {
    s.set_gradients(draw);
    const double peak = 0.02 / n, scale = n == 2 ? 0.25 : 1;
    for (const char* name : s.trained) {
      const double rate = peak * factor_of(name);
      const double decay = std::string(name).find(".b") == std::string::npos ? 0.3 : 0;
      const auto gradient = on_host(s.store.gradient_vector(s.store.find(name)));
      for (std::size_t i = 0; i < gradient.size(); ++i) {
        double& a = m[name][i];
        a = 0.8 * a + scale * static_cast<double>(gradient[i]);
        p[name][i] -= rate * (a + decay * p[name][i]);
      }
    }
    sgd_step<TestType>(ExecutionSpace(), {0.8, 0.3}, peak, scale, s.store);
  }
  for (const char* name : s.trained) {
    INFO(name);
    CHECK(worst_error(s.value(name), p[name]) < tolerance);
  }
  CHECK(s.value("frozen.weight") == frozen);
  CHECK(s.value("average") == state);
}

TEST_CASE("without a gradient AdamW only decays, and only what takes decay", "[nn]") {
  Store<double> s;
  const std::vector<double> weight = s.value("a.weight"), bias = s.value("a.bias");
  s.store.begin_update();
  s.store.finish_gradients(ExecutionSpace());
  adamw_step<double>(ExecutionSpace(), {0.9, 0.999, 1e-8, 0.5}, 0.1, 1, 1, s.store);
  std::vector<double> expected = weight;
  for (double& x : expected) x *= 1 - factor_of("a.weight") * 0.1 * 0.5;
  CHECK(worst_error(s.value("a.weight"), expected) < 1e-15);
  CHECK(s.value("a.bias") == bias);
}

TEMPLATE_TEST_CASE("the gradient norm is that of all trained gradients, frozen ones apart", "[nn]",
                   float, double) {
  Store<TestType> s;
  Draw draw(22);
  s.set_gradients(draw);
  double sum = 0;
  for (const char* name : s.trained)
    for (const TestType g : on_host(s.store.gradient_vector(s.store.find(name))))
      sum += static_cast<double>(g) * static_cast<double>(g);
  Arena scratch("kokomoe::test::scratch");
  const double norm = gradient_norm<TestType>(ExecutionSpace(), scratch, s.store);
  CHECK(std::abs(norm / std::sqrt(sum) - 1) < 1e-14);
  CHECK(gradient_norm<TestType>(ExecutionSpace(), scratch, s.store) == norm);

  const ParameterHandle last = s.store.find("experts.b1");
  std::vector<TestType> bad(s.store.entry(last).size, TestType(0));
  bad.back() = std::numeric_limits<TestType>::quiet_NaN();
  fill_device(s.store.gradient_vector(last), bad);
  CHECK(std::isnan(gradient_norm<TestType>(ExecutionSpace(), scratch, s.store)));
}

TEST_CASE("the gradient norm of a store without trained tensors is 0", "[nn]") {
  ParameterStore<double> store;
  store.add({"w", {4}, Initializer::normal(1), true, false, false});
  store.freeze("w");
  store.allocate(ExecutionSpace(), 1);
  Arena scratch("kokomoe::test::scratch");
  CHECK(gradient_norm<double>(ExecutionSpace(), scratch, store) == 0);
}

TEST_CASE("the clip factor brings larger gradients to the limit and leaves others", "[nn]") {
  CHECK(clip_factor(0.5, 1) == 1);
  CHECK(clip_factor(4, 1) == Approx(0.25).epsilon(1e-6));
  CHECK(clip_factor(4, 1) < 0.25);
  CHECK(clip_factor(1e30, 0) == 1);
  CHECK(clip_factor(0, 1) == 1);
}

TEST_CASE("every schedule rises over the warm-up and ends where it says", "[nn]") {
  const auto kind = GENERATE(Schedule::Kind::constant, Schedule::Kind::inverse_sqrt,
                             Schedule::Kind::cosine, Schedule::Kind::linear);
  const Schedule schedule{kind, 2.0, 0.4, 0.1, 10, 110};
  CHECK(schedule.rate(0) == Approx(0.4));
  CHECK(schedule.rate(1) == Approx(0.4 + 1.6 * 0.1));
  CHECK(schedule.rate(5) == Approx(1.2));
  CHECK(schedule.rate(9) == Approx(0.4 + 1.6 * 0.9));
  CHECK(schedule.rate(10) == Approx(2.0));
  switch (kind) {
    case Schedule::Kind::constant:
      CHECK(schedule.rate(11) == 2.0);
      CHECK(schedule.rate(1000) == 2.0);
      break;
    case Schedule::Kind::inverse_sqrt:
      CHECK(schedule.rate(40) == Approx(1.0));
      CHECK(schedule.rate(90) == Approx(2.0 / 3));
      break;
    case Schedule::Kind::cosine:
      CHECK(schedule.rate(60) == Approx(1.05));
      CHECK(schedule.rate(35) == Approx(0.1 + 1.9 * 0.5 * (1 + std::numbers::sqrt2 / 2)));
      CHECK(schedule.rate(110) == Approx(0.1));
      CHECK(schedule.rate(500) == Approx(0.1));
      break;
    case Schedule::Kind::linear:
      CHECK(schedule.rate(35) == Approx(0.1 + 1.9 * 0.75));
      CHECK(schedule.rate(60) == Approx(1.05));
      CHECK(schedule.rate(110) == Approx(0.1));
      CHECK(schedule.rate(500) == Approx(0.1));
      break;
  }
}

TEST_CASE("schedules without a warm-up start at the peak", "[nn]") {
  CHECK(Schedule{Schedule::Kind::constant, 3, 0, 0, 0, 100}.rate(1) == 3);
  CHECK(Schedule{Schedule::Kind::inverse_sqrt, 3, 0, 0, 0, 100}.rate(1) == Approx(3));
  CHECK(Schedule{Schedule::Kind::inverse_sqrt, 3, 0, 0, 0, 100}.rate(9) == Approx(1));
  CHECK(Schedule{Schedule::Kind::linear, 3, 0, 0, 0, 100}.rate(1) == Approx(3 * 0.99));
  CHECK(Schedule{Schedule::Kind::cosine, 3, 0, 0, 0, 100}.rate(100) == Approx(0).margin(1e-15));
  // All updates are warm-up: the peak is reached at the last one.
  CHECK(Schedule{Schedule::Kind::cosine, 3, 0, 0, 100, 100}.rate(100) == Approx(3));
}

TEST_CASE("schedule names are parsed or refused with the choices", "[nn]") {
  CHECK(parse_schedule("constant") == Schedule::Kind::constant);
  CHECK(parse_schedule("inverse_sqrt") == Schedule::Kind::inverse_sqrt);
  CHECK(parse_schedule("cosine") == Schedule::Kind::cosine);
  CHECK(parse_schedule("linear") == Schedule::Kind::linear);
  CHECK_THAT(
      message_of<InputError>([] { parse_schedule("cosin"); }),
      contains("unknown schedule \"cosin\": choose constant, inverse_sqrt, cosine or linear"));
}
