// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/communicator.hpp"

#include <cstddef>

namespace kokomoe {

/// How rows reach the ranks that own their experts.
enum class ExchangePath {
  automatic,  ///< by node when the expert group covers several nodes with equally many ranks
  flat,       ///< every rank to every other
  node        ///< within the node first, so that nodes exchange few and large messages
};

struct ParallelOptions {
  int expert_ranks = 1;      ///< P, ranks that share the experts; divides the ranks; 0 = all
  int exchange_chunks = 0;   ///< parts of an exchange, each beside another's GEMM; 0 = by size
  ExchangePath path = ExchangePath::automatic;
  int ranks_per_node = 0;    ///< 0 = as MPI says which ranks share memory
  bool staged = false;       ///< through host memory even where MPI can read the device
  std::size_t largest_message = std::size_t(1) << 30;  ///< bytes; larger ones are cut
};

/// The groups that ranks form: R ranks work on R parts of every batch; P consecutive ones hold all
/// experts once, in blocks (see owned_experts).
struct ExpertLayout {
  /// Throws InputError when `expert_ranks` does not divide the ranks. Collective.
  ExpertLayout(const Communicator& world, int expert_ranks);

  Communicator world;     ///< R ranks
  Communicator experts;   ///< the P ranks that exchange rows with this one
  Communicator replicas;  ///< the R / P ranks that hold the same experts as this one
};

}  // namespace kokomoe
