// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/parallel/expert_layout.hpp"

#include "kokomoe/core/error.hpp"

#include <string>

namespace kokomoe {

ExpertLayout::ExpertLayout(const Communicator& ranks, int expert_ranks) : world(ranks) {
  const int size = expert_ranks == 0 ? ranks.size() : expert_ranks;
  if (size < 0 || ranks.size() % size != 0)
    throw InputError("parallel/expert_ranks: " + std::to_string(size) + " does not divide the " +
                     std::to_string(ranks.size()) + " rank(s) of this run");
  if (size > 1) {
    experts = size == ranks.size() ? ranks : ranks.split(ranks.rank() / size, ranks.rank());
    if (size < ranks.size()) replicas = ranks.split(ranks.rank() % size, ranks.rank());
  } else {
    replicas = ranks;
  }
}

}  // namespace kokomoe
