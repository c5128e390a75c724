// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/arena.hpp"
#include "kokomoe/parallel/exchange_plan.hpp"
#include "kokomoe/parallel/expert_layout.hpp"

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace kokomoe {

/// Carries rows to the ranks that own their experts, and back. One for a model: its buffers are
/// used by every layer in turn. Every call is collective over the expert group.
class ExpertExchange {
 public:
  /// Throws InputError when `options` ask for a path by node that the ranks do not have.
  ExpertExchange(const Communicator& group, const ParallelOptions& options);
  ~ExpertExchange();
  ExpertExchange(const ExpertExchange&) = delete;
  ExpertExchange& operator=(const ExpertExchange&) = delete;

  bool sharded() const { return group_.size() > 1; }
  const Communicator& group() const { return group_; }
  bool staged() const { return staged_; }
  int node_ranks() const { return node_ranks_; }  ///< S of the path by node; 0 = flat
  /// "flat, MPI reads the views", "by node (4 ranks each), staged through host memory", ...
  std::string description() const;

  /// The counts of this layer to everyone who needs them. `offsets` (E + 1): where each expert's
  /// rows begin among this rank's sorted rows. Device tables come from `saved`.
  void plan(const ExecutionSpace& space, Arena& saved, std::span<const int> offsets,
            std::size_t row_bytes, ExchangePlan& plan);

  enum class Way { to_experts, back };
  /// Starts part `chunk`. `from`, `to`: the first item of ALL rows on the device: those sent, in
  /// the order of global experts, and those arrived (`back`: the other way round). Neither may be
  /// touched before finish. `wait`: nothing else is to be done meanwhile.
  int begin(const ExecutionSpace& space, const ExchangePlan& plan, int chunk, Way way,
            const void* from, void* to, std::size_t item_bytes, bool wait = false);
  void finish(const ExecutionSpace& space, int ticket);
  /// Lets MPI work on what is under way.
  void progress();

 private:
  struct Slot;
  void share_counts_flat(ExchangePlan& plan, int& rows_of_all);
  void share_counts_by_node(ExchangePlan& plan, int& rows_of_all);
  void find_nodes(const ParallelOptions& options);

  Communicator group_, node_, across_;
  ParallelOptions options_;
  bool staged_ = false;
  int node_ranks_ = 0;
  struct CountBuffers;
  std::unique_ptr<CountBuffers> numbers_;
  std::vector<std::unique_ptr<Slot>> slots_;
};

}  // namespace kokomoe
