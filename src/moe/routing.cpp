// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routing.hpp"

#include "kokomoe/core/error.hpp"

#include <limits>

namespace kokomoe {

namespace {

template <class View>
View copy_of(const ExecutionSpace& space, const View& from) {
  if (from.data() == nullptr) return View();
  View to;
  if constexpr (View::rank() == 1)
    to =
        View(Kokkos::view_alloc(space, "kokomoe::moe::routing::clone", Kokkos::WithoutInitializing),
             from.extent(0));
  else
    to =
        View(Kokkos::view_alloc(space, "kokomoe::moe::routing::clone", Kokkos::WithoutInitializing),
             from.extent(0), from.extent(1));
  Kokkos::deep_copy(space, to, from);
  return to;
}

}  // namespace

template <class T>
Routing<T> Routing<T>::clone(const ExecutionSpace& space) const {
  Routing copy = *this;
  copy.token = copy_of(space, token);
  copy.expert = copy_of(space, expert);
  copy.weight = copy_of(space, weight);
  copy.expert_gradient_weight = copy_of(space, expert_gradient_weight);
  copy.probability = copy_of(space, probability);
  copy.balance_probability = copy_of(space, balance_probability);
  copy.counted = copy_of(space, counted);
  copy.kept = copy_of(space, kept);
  copy.scale = copy_of(space, scale);
  copy.dropped = copy_of(space, dropped);
  copy.extra = copy_of(space, extra);
  return copy;
}

template <class T>
Vector<const int> Routing<T>::running(const ExecutionSpace& space, Arena& arena) const {
  if (dropped.extent(0) == 0) return expert;
  const Vector<int> result = arena.vector<int>(expert.extent(0));
  const Vector<const int> chosen = expert;
  const Vector<const unsigned char> gone = dropped;
  const int none = experts;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::routing::running"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, chosen.extent(0)),
      KOKKOS_LAMBDA(const int n) { result(n) = gone(n) != 0 ? none : chosen(n); });
  return result;
}

template <class T>
Routing<T> make_token_choice(const ExecutionSpace& space, Arena& arena, int tokens, int experts,
                             int k) {
  const std::size_t slots = static_cast<std::size_t>(tokens) * static_cast<std::size_t>(k);
  if (slots > static_cast<std::size_t>(std::numeric_limits<int>::max()))
    fail("make_token_choice", std::to_string(tokens) + " tokens with " + std::to_string(k) +
                                  " slots each are more than 2^31 - 1 assignments: use smaller "
                                  "micro-batches (train/accumulate)");
  Routing<T> routing;
  routing.tokens = tokens;
  routing.experts = experts;
  routing.slots_per_token = k;
  routing.token = arena.vector<int>(slots);
  routing.expert = arena.vector<int>(slots);
  routing.weight = arena.vector<T>(slots);
  const Vector<int> token = routing.token;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::routing::tokens"), Kokkos::RangePolicy<ExecutionSpace>(space, 0, slots),
      KOKKOS_LAMBDA(const int n) { token(n) = n / k; });
  return routing;
}

#define KOKOMOE_INSTANTIATE(T) \
  template struct Routing<T>;  \
  template Routing<T> make_token_choice<T>(const ExecutionSpace&, Arena&, int, int, int);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
