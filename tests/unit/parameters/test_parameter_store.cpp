// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/parameters/parameter_store.hpp"
#include "support/bfloat16.hpp"
#include "support/catch.hpp"
#include "support/host_arrays.hpp"

#include <cmath>
#include <limits>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

using Store = ParameterStore<double>;

ParameterSpec replicated(const std::string& name, std::vector<std::size_t> shape,
                         bool decay = true) {
  return {name, std::move(shape), Initializer::normal(1), decay, false, false};
}

std::vector<double> values(const Store& store, const std::string& name) {
  return on_host(store.value_vector(store.find(name)));
}

}  // namespace

TEST_CASE("ranks own every expert once, in order, in shares that differ by at most one",
          "[parameters]") {
  for (const int experts : {1, 2, 3, 4, 7, 8, 60})
    for (const int ranks : {1, 2, 3, 4, 5, 8, 9}) {
      int next = 0, least = experts, most = 0;
      for (int r = 0; r < ranks; ++r) {
        const ExpertRange range = owned_experts(experts, r, ranks);
        CHECK(range.begin == next);
        CHECK(range.begin == r * experts / ranks);
        CHECK(range.total == experts);
        CHECK(range.all() == (ranks == 1 || (experts == range.size())));
        next = range.end;
        least = std::min(least, range.size());
        most = std::max(most, range.size());
      }
      CHECK(next == experts);
      CHECK(most - least <= 1);
    }
}

TEMPLATE_TEST_CASE("a rank's experts start as their slice of the whole", "[parameters]", float,
                   double) {
  using T = TestType;
  const auto make = [](int rank, int ranks) {
    ParameterStore<T> store(rank, ranks);
    store.add({"router", {5, 3}, Initializer::uniform(0.5), true, false, false});
    store.add({"experts.w1", {5, 4, 3}, Initializer::normal(2), true, true, false});
    store.add({"experts.b1", {5, 4}, Initializer::uniform(1), false, true, false});
    store.allocate(ExecutionSpace(), 42);
    return store;
  };
  const auto whole = make(0, 1);
  for (const int ranks : {2, 3, 5, 7}) {
    for (const char* name : {"experts.w1", "experts.b1"}) {
      std::vector<T> joined;
      for (int r = 0; r < ranks; ++r) {
        const auto part = make(r, ranks);
        const auto handle = part.find(name);
        CHECK(part.entry(handle).local_shape[0] ==
              static_cast<std::size_t>(owned_experts(5, r, ranks).size()));
        for (const T x : on_host(part.value_vector(handle))) joined.push_back(x);
        CHECK(on_host(part.value(part.find("router"))) ==
              on_host(whole.value(whole.find("router"))));
        CHECK(part.parameters() == whole.parameters());
      }
      CHECK(joined == on_host(whole.value_vector(whole.find(name))));
    }
  }
}

TEST_CASE("initial values depend on seed, name and index alone", "[parameters]") {
  Store a, b;
  a.add(replicated("x", {100}));
  a.add(replicated("y", {100}));
  b.add(replicated("first", {7, 3}));
  b.add(replicated("y", {50}));
  b.freeze("y");
  a.allocate(ExecutionSpace(), 9);
  b.allocate(ExecutionSpace(), 9);
  auto start = values(a, "y");
  CHECK(values(a, "x") != start);
  start.resize(50);
  CHECK(values(b, "y") == start);
  Store c;
  c.add(replicated("y", {50}));
  c.allocate(ExecutionSpace(), 10);
  CHECK(values(c, "y") != start);
}

TEST_CASE("float starts as double does, rounded", "[parameters]") {
  Store wide;
  ParameterStore<float> narrow;
  wide.add(replicated("w", {1000}));
  narrow.add(replicated("w", {1000}));
  wide.allocate(ExecutionSpace(), 3);
  narrow.allocate(ExecutionSpace(), 3);
  std::vector<float> rounded;
  for (const double x : values(wide, "w")) rounded.push_back(static_cast<float>(x));
  CHECK(on_host(narrow.value_vector({0})) == rounded);
}

TEST_CASE("initial values have the moments that were asked for", "[parameters]") {
  constexpr std::size_t n = 100000;
  Store store;
  store.add({"normal", {n}, Initializer::normal(0.25), true, false, false});
  store.add({"uniform", {n}, Initializer::uniform(0.25), true, false, false});
  store.add({"constant", {7}, Initializer::constant(-1.5), true, false, false});
  store.allocate(ExecutionSpace(), 1);
  const auto moments = [&](const std::string& name) {
    double sum = 0, squares = 0;
    for (const double x : values(store, name)) {
      sum += x;
      squares += x * x;
    }
    return std::pair(sum / n, squares / n);
  };
  // Four standard errors of the mean and of the variance.
  const double root = std::sqrt(static_cast<double>(n));
  const auto [normal_mean, normal_square] = moments("normal");
  CHECK(std::abs(normal_mean) < 4 * 0.25 / root);
  CHECK(std::abs(normal_square / 0.0625 - 1) < 4 * std::sqrt(2.0) / root);
  const auto [uniform_mean, uniform_square] = moments("uniform");
  CHECK(std::abs(uniform_mean) < 4 * 0.25 / std::sqrt(3.0) / root);
  CHECK(std::abs(uniform_square / (0.0625 / 3) - 1) < 4 * std::sqrt(0.8) / root);
  CHECK(largest(values(store, "uniform")) < 0.25);
  CHECK(values(store, "constant") == std::vector<double>(7, -1.5));
}

TEST_CASE("tensors of one rate and one kind of decay lie together", "[parameters]") {
  Store store;
  const auto fast = store.add(replicated("head.weight", {5}));
  const auto slow = store.add(replicated("layer.weight", {3}));
  const auto bias = store.add(replicated("layer.bias", {2}, false));
  const auto other = store.add(replicated("layer.other", {4}));
  store.add({"layer.experts", {2, 3}, Initializer::normal(1), true, true, false});
  CHECK(store.scale_rate("layer.*", 0.5) == 4);
  CHECK(store.scale_rate("*.bias", 0.5) == 1);
  CHECK(store.scale_rate("nobody", 0.5) == 0);
  for (const double bad : {0.0, -1.0, std::numeric_limits<double>::infinity(),
                           std::numeric_limits<double>::quiet_NaN()})
    CHECK_THROWS_WITH(store.scale_rate("head.*", bad), contains("scale_rate(\"head.*\")"));
  store.allocate(ExecutionSpace(), 1);
  CHECK_THROWS_WITH(store.scale_rate("*", 2), contains("after allocate"));
  const auto& ranges = store.buffer(Store::Group::replicated).ranges;
  REQUIRE(ranges.size() == 3);
  CHECK(store.entry(fast).offset == ranges[0].begin);
  CHECK(store.entry(slow).offset == ranges[1].begin);
  CHECK(store.entry(other).offset == ranges[1].begin + 3);
  CHECK(store.entry(bias).offset == ranges[2].begin);
  CHECK(ranges[0].end == 5);
  CHECK(ranges[1].end == 12);
  CHECK(ranges[2].end == 14);
  CHECK(ranges[0].rate == 1);
  CHECK(ranges[1].rate == 0.5);
  CHECK(ranges[2].rate == 0.25);
  CHECK(ranges[1].decay);
  CHECK_FALSE(ranges[2].decay);
  const auto& experts = store.buffer(Store::Group::expert).ranges;
  REQUIRE(experts.size() == 1);
  CHECK(experts[0].end == 6);
  CHECK(experts[0].rate == 0.5);
}

TEST_CASE("a buffer lies decayed, then trained, then frozen", "[parameters]") {
  Store store;
  const auto bias = store.add(replicated("a.bias", {3}, false));
  const auto frozen = store.add(replicated("b.weight", {2, 5}));
  const auto weight = store.add(replicated("c.weight", {4, 2}));
  const auto state = store.add({"average", {6}, Initializer::constant(2), true, false, true});
  const auto expert =
      store.add({"experts.w", {2, 3, 4}, Initializer::normal(1), true, true, false});
  CHECK(store.freeze("b.*") == 1);
  store.allocate(ExecutionSpace(), 1);
  CHECK(store.entry(weight).offset == 0);
  CHECK(store.entry(bias).offset == 8);
  CHECK(store.entry(frozen).offset == 11);
  CHECK(store.entry(frozen).frozen);
  const auto& buffer = store.buffer(Store::Group::replicated);
  REQUIRE(buffer.ranges.size() == 2);
  CHECK(buffer.ranges[0].end == 8);
  CHECK(buffer.trained == 11);
  CHECK(buffer.value.size() == 21);
  CHECK(buffer.gradient.size() == 21);
  CHECK(buffer.moment1.size() == 11);
  CHECK(buffer.moment2.size() == 11);
  CHECK(store.entry(expert).group == Store::Group::expert);
  CHECK(store.buffer(Store::Group::expert).trained == 24);
  CHECK(store.entry(state).group == Store::Group::state);
  CHECK(store.buffer(Store::Group::state).trained == 0);
  CHECK(store.buffer(Store::Group::state).value.size() == 6);
  CHECK(store.buffer(Store::Group::state).gradient.size() == 0);
  CHECK(store.parameters() == 21 + 24);
  CHECK(store.bytes() == sizeof(double) * (21 + 21 + 11 + 11 + 4 * 24 + 6));
}

TEST_CASE("views show a tensor as rows of its last axis", "[parameters]") {
  Store store;
  const auto vector = store.add(replicated("v", {5}));
  const auto expert = store.add({"e.w", {3, 4, 2}, Initializer::normal(1), true, true, false});
  const auto bias = store.add({"e.b", {3, 4}, Initializer::normal(1), false, true, false});
  store.allocate(ExecutionSpace(), 1);
  CHECK(store.value(vector).extent(0) == 1);
  CHECK(store.value(vector).extent(1) == 5);
  CHECK(store.value(expert).extent(0) == 12);
  CHECK(store.value(expert).extent(1) == 2);
  const auto second = store.expert_value(expert, 1);
  CHECK(second.extent(0) == 4);
  CHECK(second.extent(1) == 2);
  CHECK(second.data() == store.value(expert).data() + 8);
  CHECK(store.expert_value(bias, 2).extent(0) == 1);
  CHECK(store.expert_value(bias, 2).data() == store.value(bias).data() + 8);
  CHECK(store.expert_gradient(expert, 2).data() == store.gradient(expert).data() + 16);
}

TEST_CASE("a tensor may have a copy in bfloat16, which follows when asked to", "[parameters]") {
  ParameterStore<float> store(1, 2);
  ParameterSpec expert{"e.w", {5, 3, 7}, Initializer::normal(1), true, true};
  expert.rounded = true;
  const ParameterHandle plain = store.add({"plain", {4, 2}, Initializer::normal(1)});
  const ParameterHandle rounded = store.add(expert);
  ParameterSpec whole{"w", {6, 2}, Initializer::uniform(1)};
  whole.rounded = true;
  const ParameterHandle other = store.add(whole);
  const ExecutionSpace space;
  store.allocate(space, 3);
  const auto check = [&](ParameterHandle handle) {
    const auto values = on_host(store.value(handle));
    const auto copies = on_host(store.rounded_value(handle));
    REQUIRE(copies.size() == values.size());
    CHECK(store.rounded_value(handle).extent(1) == store.value(handle).extent(1));
    for (std::size_t i = 0; i < values.size(); ++i)
      CHECK(static_cast<double>(static_cast<float>(copies[i])) == nearest_bfloat16(values[i]));
  };
  check(rounded);
  check(other);
  const std::size_t experts = static_cast<std::size_t>(store.experts(5).size());
  const std::size_t elements = 8 + 12 + experts * 21;
  CHECK(store.bytes() == 4 * elements * sizeof(float) + 2 * (12 + experts * 21));
  CHECK_THAT(message_of<Error>([&] { store.rounded_value(plain); }),
             contains("\"plain\" has no copy in bfloat16"));

  Kokkos::deep_copy(store.value(other), 257.0f / 256);
  store.round_values(space);
  check(other);
  // An optimizer's step does it by itself: tests/unit/nn.
}

TEST_CASE("the first gradient of an update overwrites, later ones add", "[parameters]") {
  Store store;
  const auto a = store.add(replicated("a", {2}));
  const auto b = store.add(replicated("b", {2}));
  store.allocate(ExecutionSpace(), 1);
  for (int update = 0; update < 2; ++update) {
    store.begin_update();
    CHECK(store.gradient_beta(a) == 0);
    CHECK(store.gradient_beta(a) == 1);
    CHECK(store.gradient_beta(a) == 1);
    CHECK(store.gradient_beta(b) == 0);
  }
}

TEST_CASE("what nobody wrote is zero at the end of an update", "[parameters]") {
  Store store;
  const auto a = store.add(replicated("a", {2}));
  const auto b = store.add(replicated("b", {2}));
  store.allocate(ExecutionSpace(), 1);
  Kokkos::deep_copy(store.gradient(a), 5.0);
  Kokkos::deep_copy(store.gradient(b), 5.0);
  store.begin_update();
  store.gradient_beta(a);
  store.finish_gradients(ExecutionSpace());
  Kokkos::fence();
  CHECK(on_host(store.gradient(a)) == std::vector<double>{5, 5});
  CHECK(on_host(store.gradient(b)) == std::vector<double>{0, 0});
  CHECK(store.gradient_beta(b) == 1);
}

TEST_CASE("exact sums become gradients, and parts that did not fit become NaN", "[parameters]") {
  Store store;
  const auto a = store.add(replicated("a", {2, 3}));
  const auto b = store.add(replicated("b", {2}));
  const auto c = store.add(replicated("c", {2}));
  store.sum_exactly();
  store.allocate(ExecutionSpace(), 1);
  const std::int64_t one = std::int64_t(1) << exact_sum::high_bits;
  for (const bool good : {true, false}) {
    store.begin_update();
    CHECK(!store.adds_exactly(a));
    CHECK(store.adds_exactly(a));
    CHECK(!store.adds_exactly(b));
    const exact_sum::Sums sums = store.exact_gradient(a);
    REQUIRE(sums.high.extent(0) == 2);
    REQUIRE(sums.high.extent(1) == 3);
    fill_device(sums.high, std::vector<std::int64_t>{one, -one, 0, 3 * one, one / 2, 1});
    // A low limb that was not carried, as after a sum over ranks.
    fill_device(sums.low, std::vector<std::int64_t>{0, 0, std::int64_t(1) << 52, 0, 0, 0});
    for (const auto& limb : {store.exact_gradient(b).high, store.exact_gradient(b).low})
      Kokkos::deep_copy(limb, one);
    Kokkos::deep_copy(store.exact_gradient(c).high, one);  // of an update before
    if (!good) Kokkos::deep_copy(store.exact_gradient(b).outside, 1);
    store.finish_gradients(ExecutionSpace());
    store.round_gradients(ExecutionSpace());
    Kokkos::fence();
    CHECK(on_host(store.gradient(a)) == std::vector<double>{1, -1, 0x1p-24, 3, 0.5, 0x1p-26});
    CHECK(std::isnan(on_host(store.gradient(b))[1]) != good);
    CHECK(on_host(store.gradient(c)) == std::vector<double>{0, 0});
  }
  CHECK_THAT(message_of<Error>([&] { store.gradient_beta(b); }), contains("\"b\""));
  Store plain;
  const auto w = plain.add(replicated("w", {2}));
  plain.allocate(ExecutionSpace(), 1);
  CHECK_THROWS_AS(plain.exact_gradient(w), Error);
  CHECK_THROWS_AS(plain.sum_exactly(), Error);
}

TEST_CASE("globs freeze the names that they match", "[parameters]") {
  Store store;
  for (const char* name : {"blocks.0.moe.router.weight", "blocks.1.moe.router.weight",
                           "blocks.1.moe.experts.w1", "head.weight"})
    store.add(replicated(name, {1}));
  store.add({"blocks.0.moe.router.average", {1}, Initializer::constant(0), true, false, true});
  CHECK(store.freeze("*.router.*") == 2);
  CHECK(store.freeze("head.weigh") == 0);
  CHECK(store.freeze("head.weight") == 1);
  CHECK(store.freeze("nothing*") == 0);
  CHECK(!store.entry(store.find("blocks.1.moe.experts.w1")).frozen);
  CHECK(store.freeze("*") == 4);
}

TEST_CASE("a store refuses what does not make sense", "[parameters]") {
  CHECK_THROWS_AS(Store(2, 2), Error);
  CHECK_THROWS_AS(Store(-1, 2), Error);
  CHECK_THROWS_AS(Store(0, 0), Error);
  Store store;
  store.add(replicated("twice", {1}));
  CHECK_THAT(message_of<Error>([&] { store.add(replicated("twice", {2})); }), contains("twice"));
  CHECK_THROWS_AS(store.add(replicated("scalar", {})), Error);
  CHECK(!store.find("absent").valid());
  store.allocate(ExecutionSpace(), 1);
  CHECK_THROWS_AS(store.add(replicated("late", {1})), Error);
  CHECK_THROWS_AS(store.freeze("*"), Error);
  CHECK_THROWS_AS(store.allocate(ExecutionSpace(), 1), Error);
}
