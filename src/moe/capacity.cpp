// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/capacity.hpp"

#include "kokomoe/core/error.hpp"

namespace kokomoe {

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
  const Vector<const T> weight = routing.weight;
  const bool by_probability = drop == CapacityDrop::probability;
  // Written apart: whether a slot stays is read by others while they are judged.
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::capacity"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, groups.count * experts),
      KOKKOS_LAMBDA(const int i) {
        const int e = i % experts, begin = groups.begin(i / experts), end = groups.end(i / experts);
        const int capacity = expert_capacity(end - begin, experts, k, factor);
        const auto wants = [&](int n) {
          return expert(n) == e && (before.extent(0) == 0 || before(n) == 0);
        };
        int placed = 0;
        for (int r = 0; r < per_token; ++r) {
          for (int t = begin; t < end; ++t) {
            const int n = t * per_token + r;
            if (expert(n) != e) continue;
            if (!wants(n)) {
              dropped(n) = 1;
              continue;
            }
            int rank = placed++;
            if (by_probability) {
              rank = 0;
              for (int q = 0; q < per_token; ++q)
                for (int s = begin; s < end; ++s) {
                  const int m = s * per_token + q;
                  if (m == n || !wants(m)) continue;
                  const bool earlier = q < r || (q == r && s < t);
                  if (weight(m) > weight(n) || (weight(m) == weight(n) && earlier)) ++rank;
                }
            }
            dropped(n) = rank >= capacity ? 1 : 0;
          }
        }
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
