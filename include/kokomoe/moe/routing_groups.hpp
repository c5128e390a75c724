// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/step_context.hpp"

namespace kokomoe {

/// Ranges of consecutive packed tokens that batch-coupled rules (capacity, assignments, quantiles)
/// look at together: the sequences, or runs of `size` tokens. Never "whatever this rank holds", so
/// that results do not depend on the layout.
struct RoutingGroups {
  Vector<const int> offsets;  ///< (count + 1), when size is 0
  int size = 0;
  int tokens = 0;
  int count = 0;

  /// size 0: the sequences of ctx.tokens. Otherwise, in training, size must divide this rank's
  /// tokens: throws InputError.
  RoutingGroups(const StepContext& ctx, int size);
  /// All of this rank's tokens as one group.
  static RoutingGroups whole(const StepContext& ctx);

  KOKKOS_INLINE_FUNCTION int begin(int group) const {
    return size == 0 ? offsets(group) : group * size;
  }
  KOKKOS_INLINE_FUNCTION int end(int group) const {
    if (size == 0) return offsets(group + 1);
    return group + 1 == count ? tokens : (group + 1) * size;
  }

 private:
  RoutingGroups() = default;
};

/// Tokens that an expert takes of a group of `tokens`: min(max(ceil(tokens k factor / E), 1),
/// tokens).
KOKKOS_INLINE_FUNCTION int expert_capacity(int tokens, int experts, int k, double factor) {
  const double share = static_cast<double>(tokens) * k * factor / experts;
  const double whole = Kokkos::ceil(share);
  const double least = whole < 1 ? 1 : whole;
  return least < tokens ? static_cast<int>(least) : tokens;
}

}  // namespace kokomoe
