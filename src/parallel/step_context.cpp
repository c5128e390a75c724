// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/parallel/step_context.hpp"

namespace kokomoe {

PackedTokens number_rows(const ExecutionSpace& space, int rows) {
  const auto size = static_cast<std::size_t>(rows);
  const Vector<int> offsets("kokomoe::parallel::offsets", 2);
  const Vector<int> position("kokomoe::parallel::position", size);
  const Vector<std::uint32_t> sequence("kokomoe::parallel::sequence", size);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("parallel::number_rows"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, size + 1), KOKKOS_LAMBDA(const int r) {
        if (r < rows)
          position(r) = r;
        else
          offsets(1) = rows;
      });
  space.fence(KOKOMOE_LABEL("parallel::number_rows"));
  PackedTokens tokens;
  tokens.tokens = tokens.max_length = rows;
  tokens.sequences = 1;
  tokens.sequence_offsets = offsets;
  tokens.sequence_index = sequence;
  tokens.position = position;
  return tokens;
}

}  // namespace kokomoe
