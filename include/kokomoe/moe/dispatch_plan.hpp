// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/arena.hpp"
#include "kokomoe/core/types.hpp"

#include <span>

namespace kokomoe {

/// Where every assignment's row lies once rows are sorted by expert, and how to find a token's
/// rows again. The sort is stable, so the plan depends on the routing alone. Row r < rows() is
/// used; the rest of the (N) arrays is not defined.
struct DispatchPlan {
  int tokens = 0;
  int experts = 0;
  int slots_per_token = 0;      ///< as in Routing
  Vector<int> counts;           ///< (E) rows of each expert
  Vector<int> offsets;          ///< (E+1) first row of each expert; offsets[E] = rows
  Vector<int> row_of_slot;      ///< (N), -1 = unused slot
  Vector<int> slot_of_row;      ///< (N)
  Vector<int> token_of_row;     ///< (N)
  Vector<int> expert_of_row;    ///< (N)
  Vector<int> token_offsets;    ///< (T+1) into token_slots; empty when slots_per_token > 0
  Vector<int> token_slots;      ///< (N) slots by token, in slot order
  Vector<int>::host_mirror_type host_offsets;  ///< (E+1) `offsets` on the host, kept between steps

  int rows() const { return experts == 0 ? 0 : host_offsets(experts); }
  std::span<const int> offsets_on_host() const {
    return {host_offsets.data(), host_offsets.extent(0)};
  }
};

/// Sorts the assignments (token[n], expert[n]) of T tokens by expert. Throws Error when the shapes
/// of `token` and `expert` differ. The E+1 offsets are the layer's only copy to the host.
void build_dispatch_plan(const ExecutionSpace& space, Arena& saved, Arena& scratch, int tokens,
                         int experts, int slots_per_token, const Vector<const int>& token,
                         const Vector<const int>& expert, DispatchPlan& plan);

}  // namespace kokomoe
