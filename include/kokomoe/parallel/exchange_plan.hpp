// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/types.hpp"
#include "kokomoe/parallel/expert_range.hpp"

#include <cstddef>
#include <vector>

namespace kokomoe {

/// How many rows of one layer go where. P ranks own E experts in blocks; every rank holds rows
/// sorted by expert. Rows of one owner lie together, so nothing is sorted again to send them.
/// On arrival a rank wants its rows by (local expert, source rank): by then the rows of an expert
/// have the order of the global batch, whatever the number of ranks.
///
/// An exchange has `chunks` parts; part c holds a share of every owner's experts, so that an
/// expert's rows are in one part only, and no sum depends on the number of parts.
struct ExchangePlan {
  int ranks = 1;        ///< P
  int rank = 0;         ///< of this process
  int chunks = 1;       ///< C
  int largest = 0;      ///< most rows of any rank for any other, the same on every rank
  ExpertRange owned{};  ///< by this rank, of E

  std::vector<int> counts;          ///< (E) rows of this rank for each expert
  std::vector<int> arrivals;        ///< (P, E_local) rows of each source for each local expert
  std::vector<int> expert_offsets;  ///< (E_local + 1) arrived rows by local expert
  /// (C, P) rows for and from each rank; offsets into all rows sent, and into all arrived ones,
  /// which lie by (chunk, source, local expert) at first.
  std::vector<int> send_counts, send_offsets, receive_counts, receive_offsets;
  std::vector<unsigned char> sorted_on_arrival;  ///< (C) 1 = by (local expert, source) already

  /// Where block b = (local expert, source) begins, sorted and as it arrives; on the device.
  Vector<int> block_row, block_arrival;

  /// With the path by node (S ranks on each of N nodes; this one is rank s of its node): rows on
  /// their way through this rank.
  int node_ranks = 0;  ///< S; 0 = flat
  int largest_in_node = 0, largest_between_nodes = 0;
  /// (C, S, N) rows of rank s2 of this node for rank s of node n.
  std::vector<int> transit;

  int rows_sent() const;
  int rows_received() const { return expert_offsets.empty() ? 0 : expert_offsets.back(); }
  /// Local experts of part c: [first_expert(c), first_expert(c + 1)).
  int first_expert(int chunk) const { return chunk_begin(owned, chunk); }
  /// First of the experts in part c of a block that some rank owns, counted from its own first.
  int chunk_begin(const ExpertRange& block, int chunk) const {
    return static_cast<int>(static_cast<long>(block.size()) * chunk / chunks);
  }

  /// Fills everything that follows from counts, arrivals, owned, ranks and chunks, but for the
  /// device's copies. Throws Error when a rank would receive more than 2^31 - 1 rows.
  void lay_out();
};

}  // namespace kokomoe
