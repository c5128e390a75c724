// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/capacity.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/detail/selection.hpp"

namespace kokomoe {

namespace {

/// The slots of one group in the order of position: all first choices, then all second ones.
struct SlotOrder {
  int begin, tokens, per_token;
  KOKKOS_INLINE_FUNCTION int count() const { return tokens * per_token; }
  KOKKOS_INLINE_FUNCTION int slot(int i) const {
    return (begin + i % tokens) * per_token + i / tokens;
  }
};

}  // namespace

template <class T>
void apply_capacity(const StepContext& ctx, const RoutingGroups& groups, int k, double factor,
                    CapacityDrop drop, Routing<T>& routing) {
  const int slots = routing.slots(), experts = routing.experts;
  const int per_token = routing.slots_per_token;
  if (per_token == 0) fail("apply_capacity", "the routing has no fixed slots for each token");
  const Vector<unsigned char> before = routing.dropped;
  const Vector<unsigned char> dropped =
      ctx.saved->vector<unsigned char>(static_cast<std::size_t>(slots));
  const Vector<const int> expert = routing.expert;
  const Vector<const T> weight = routing.weight, scale = routing.scale;
  const bool by_probability = drop == CapacityDrop::probability;
  // Written apart: whether a slot stays is read by others while they are judged.
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::capacity"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, groups.count * experts),
      KOKKOS_LAMBDA(const int i) {
        const int e = i % experts, begin = groups.begin(i / experts), end = groups.end(i / experts);
        const int capacity = expert_capacity(end - begin, experts, k, factor);
        const SlotOrder order{begin, end - begin, per_token};
        const auto wants = [&](int n) {
          return expert(n) == e && (before.extent(0) == 0 || before(n) == 0);
        };
        if (!by_probability) {
          int placed = 0;
          for (int j = 0; j < order.count(); ++j) {
            const int n = order.slot(j);
            if (expert(n) == e) dropped(n) = wants(n) && placed++ < capacity ? 0 : 1;
          }
          return;
        }
        // Slots that do not want a place are below every weight, NaN too.
        const auto key = [&](int j) {
          const int n = order.slot(j);
          // A sampled gate's weight is s p: s is chance, and must not decide.
          const T s = scale.extent(0) != 0 && scale(n) > T(0) ? scale(n) : T(1);
          return wants(n) ? detail::order_key(weight(n) / s) + 1 : detail::OrderKey<T>(0);
        };
        detail::take_largest<T>(order.count(), capacity, key, [&](int j, bool taken) {
          const int n = order.slot(j);
          if (expert(n) == e) dropped(n) = taken && wants(n) ? 0 : 1;
        });
      });
  // Slots that no expert of [0, E) claims are unused anyway; give them a defined value.
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::capacity::unused"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, slots), KOKKOS_LAMBDA(const int n) {
        if (expert(n) < 0 || expert(n) >= experts) dropped(n) = 1;
      });
  routing.dropped = dropped;
}

template void apply_capacity<float>(const StepContext&, const RoutingGroups&, int, double,
                                    CapacityDrop, Routing<float>&);
template void apply_capacity<double>(const StepContext&, const RoutingGroups&, int, double,
                                     CapacityDrop, Routing<double>&);

}  // namespace kokomoe
