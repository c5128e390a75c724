// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/parallel/step_context.hpp"

#include "kokomoe/core/error.hpp"

namespace kokomoe {

PackedTokens number_rows(const ExecutionSpace& space, int rows, std::int64_t first_row) {
  constexpr int position_bits = 24;
  if (rows < 0 || first_row < 0 || first_row + rows > std::int64_t(1) << 56)
    fail("number_rows", std::to_string(rows) + " rows from number " + std::to_string(first_row));
  const auto size = static_cast<std::size_t>(rows);
  const Vector<int> offsets("kokomoe::parallel::offsets", 2);
  const Vector<int> position("kokomoe::parallel::position", size);
  const Vector<std::uint32_t> sequence("kokomoe::parallel::sequence", size);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("parallel::number_rows"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, size + 1), KOKKOS_LAMBDA(const int r) {
        if (r == rows) {
          offsets(1) = rows;
          return;
        }
        const std::int64_t number = first_row + r;
        sequence(r) = static_cast<std::uint32_t>(number >> position_bits);
        position(r) = static_cast<int>(number & ((1 << position_bits) - 1));
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
