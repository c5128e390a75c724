// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/nn/optimizer.hpp"
#include "kokomoe/nn/ordered_norm.hpp"
#include "support/catch.hpp"
#include "support/host_arrays.hpp"

#include <cmath>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// A store whose trained tensors lie behind `before` other elements.
template <class T>
struct Shifted {
  explicit Shifted(std::size_t before) {
    if (before > 0) store.add({"before", {before}, Initializer::normal(1), true, false, false});
    w = store.add({"w", {97, 101}, Initializer::normal(1), true, false, false});
    experts = store.add({"experts", {3, 41, 50}, Initializer::normal(1), true, true, false});
    store.allocate(ExecutionSpace(), 5);
    Kokkos::deep_copy(store.buffer(ParameterStore<T>::Group::replicated).gradient, T(0));
    Draw draw(3);
    fill_device(store.gradient_vector(w), draw.many<T>(97 * 101, 0.1));
    fill_device(store.gradient_vector(experts), draw.many<T>(3 * 41 * 50, 0.1));
  }
  ParameterStore<T> store;
  ParameterHandle w, experts;
};

}  // namespace

TEMPLATE_TEST_CASE("AdamW gives an element the same bits wherever it lies", "[nn][layout_free]",
                   float, double) {
  using T = TestType;
  const AdamWConfig config{0.9, 0.98, 1e-8, 0.1};
  std::vector<T> expected;
  for (std::size_t before = 0; before < 70; before += 3) {
    Shifted<T> s(before);
    for (int n = 1; n <= 3; ++n) adamw_step<T>(ExecutionSpace(), config, 3e-3, 0.7, n, s.store);
    Kokkos::fence();
    const std::vector<T> values = on_host(s.store.value_vector(s.w));
    if (before == 0) expected = values;
    CAPTURE(before);
    CHECK(values == expected);
  }
}

TEMPLATE_TEST_CASE("the ordered norm is the norm, wherever tensors lie", "[nn][layout_free]", float,
                   double) {
  using T = TestType;
  Arena scratch("kokomoe::test::scratch");
  const auto norm = [&](std::size_t before) {
    Shifted<T> s(before);
    const double result =
        ordered_gradient_norm<T>(ExecutionSpace(), scratch, s.store, Communicator());
    CHECK(std::abs(gradient_norm<T>(ExecutionSpace(), scratch, s.store) / result - 1) < 1e-14);
    return result;
  };
  const double expected = norm(0);
  for (const std::size_t before : {1u, 3u, 17u, 5000u}) CHECK(norm(before) == expected);
}
