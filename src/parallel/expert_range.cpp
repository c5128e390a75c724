// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/parallel/expert_range.hpp"

#include <cstdint>

namespace kokomoe {

ExpertRange owned_experts(int experts, int rank, int ranks) {
  const auto bound = [&](int r) {
    return static_cast<int>(static_cast<std::int64_t>(r) * experts / ranks);
  };
  return {bound(rank), bound(rank + 1), experts};
}

}  // namespace kokomoe
