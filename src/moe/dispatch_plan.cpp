// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/dispatch_plan.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/stable_sort.hpp"

namespace kokomoe {

namespace {
using Range = Kokkos::RangePolicy<ExecutionSpace>;
}  // namespace

void build_dispatch_plan(const ExecutionSpace& space, Arena& saved, Arena& scratch, int tokens,
                         int experts, int slots_per_token, const Vector<const int>& token,
                         const Vector<const int>& expert, DispatchPlan& plan) {
  const Region region(KOKOMOE_LABEL("moe::dispatch"));
  const int slots = static_cast<int>(token.extent(0));
  if (expert.extent(0) != token.extent(0))
    fail_shape("build_dispatch_plan", "expert", expert.extent(0), 1, token.extent(0), 1);
  plan.tokens = tokens;
  plan.experts = experts;
  plan.slots_per_token = slots_per_token;
  plan.counts = saved.vector<int>(experts);
  plan.offsets = saved.vector<int>(experts + 1);
  plan.row_of_slot = saved.vector<int>(slots);
  plan.slot_of_row = saved.vector<int>(slots);
  plan.token_of_row = saved.vector<int>(slots);
  plan.expert_of_row = saved.vector<int>(slots);
  stable_sort(space, scratch, expert, experts, plan.offsets, plan.slot_of_row);

  const Vector<int> counts = plan.counts, offsets = plan.offsets, slot_of_row = plan.slot_of_row;
  const Vector<int> row_of_slot = plan.row_of_slot, token_of_row = plan.token_of_row;
  const Vector<int> expert_of_row = plan.expert_of_row;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::dispatch::counts"), Range(space, 0, experts),
      KOKKOS_LAMBDA(const int e) { counts(e) = offsets(e + 1) - offsets(e); });
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::dispatch::invert"), Range(space, 0, slots), KOKKOS_LAMBDA(const int i) {
        // As slot i: unused ones have no row. As row i: i is below offsets(E) or not used.
        if (expert(i) < 0 || expert(i) >= experts) row_of_slot(i) = -1;
        if (i >= offsets(experts)) return;
        const int slot = slot_of_row(i);
        row_of_slot(slot) = i;
        token_of_row(i) = token(slot);
        expert_of_row(i) = expert(slot);
      });

  if (slots_per_token == 0) {
    plan.token_offsets = saved.vector<int>(tokens + 1);
    plan.token_slots = saved.vector<int>(slots);
    const Vector<int> key = saved.vector<int>(slots);
    Kokkos::parallel_for(
        KOKOMOE_LABEL("moe::dispatch::token_key"), Range(space, 0, slots),
        KOKKOS_LAMBDA(const int n) { key(n) = row_of_slot(n) < 0 ? -1 : token(n); });
    stable_sort(space, scratch, key, tokens, plan.token_offsets, plan.token_slots);
  }

  if (plan.host_offsets.extent(0) != plan.offsets.extent(0))
    plan.host_offsets = Vector<int>::host_mirror_type(
        Kokkos::view_alloc("kokomoe::moe::dispatch::host_offsets", Kokkos::WithoutInitializing),
        plan.offsets.extent(0));
  Kokkos::deep_copy(space, plan.host_offsets, plan.offsets);
  space.fence(KOKOMOE_LABEL("moe::dispatch::wait_for_offsets"));
}

}  // namespace kokomoe
