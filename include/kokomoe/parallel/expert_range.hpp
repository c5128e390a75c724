// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace kokomoe {

/// Which experts a rank owns: [begin, end) of `total`, possibly none.
struct ExpertRange {
  int begin = 0;
  int end = 0;
  int total = 0;
  int size() const { return end - begin; }
  bool all() const { return size() == total; }
};

/// Rank r of R owns experts [r E / R, (r + 1) E / R).
ExpertRange owned_experts(int experts, int rank, int ranks);

}  // namespace kokomoe
