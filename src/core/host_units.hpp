// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/arena.hpp"
#include "kokomoe/core/row_kernels.hpp"

#include <string>

// Hosts whose compiler has vector types (core/simd_tile.hpp).
#if !KOKOMOE_TEAM_ROWS && (defined(__GNUC__) || defined(__clang__))
#define KOKOMOE_HOST_TILES 1
#else
#define KOKOMOE_HOST_TILES 0
#endif

#if KOKOMOE_HOST_TILES
namespace kokomoe::detail {

/// f(unit, memory of `size` elements that is this thread's alone) for every unit, each on a thread,
/// whichever is free. The memory begins at a multiple of 16 elements.
template <class T, class F>
void for_each_unit(const std::string& label, const ExecutionSpace& space, Arena& scratch, int units,
                   std::size_t size, const F& f) {
  if (units == 0) return;
  using Token = Kokkos::Experimental::UniqueToken<ExecutionSpace,
                                                  Kokkos::Experimental::UniqueTokenScope::Global>;
  const Token token(space);
  ArenaScope scope(scratch);
  const std::size_t each = (size + 15) / 16 * 16;
  T* const memory = scratch.vector<T>(each * static_cast<std::size_t>(token.size())).data();
  Kokkos::RangePolicy<ExecutionSpace, Kokkos::Schedule<Kokkos::Dynamic>> policy(space, 0, units);
  policy.set_chunk_size(1);
  Kokkos::parallel_for(label, policy, [=](const int unit) {
    const auto mine = token.acquire();
    f(unit, memory + each * static_cast<std::size_t>(mine));
    token.release(mine);
  });
}

}  // namespace kokomoe::detail
#endif
