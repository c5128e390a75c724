// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/parallel/expert_exchange.hpp"

#include "kokomoe/core/error.hpp"
#include "parallel/exchange_slot.hpp"
#include "parallel/gpu_aware.hpp"

#include <algorithm>

namespace kokomoe {

namespace {

/// Rows of one expert that one rank sends another, on average, from which on every expert is
/// exchanged by itself: then nothing is sorted on arrival. Smaller messages cost more than that.
constexpr std::size_t worth_its_own_message = std::size_t(1) << 16;

}  // namespace

ExpertExchange::ExpertExchange(const Communicator& group, const ParallelOptions& options)
    : group_(group), options_(options) {
  staged_ = options.staged || (!host_accessible && !mpi_reads_device_memory());
  if (sharded()) find_nodes(options);
  numbers_ = std::make_unique<CountBuffers>(group_, node_, across_);
}

ExpertExchange::~ExpertExchange() = default;

void ExpertExchange::find_nodes(const ParallelOptions& options) {
  const int ranks = group_.size(), rank = group_.rank();
  if (options.path == ExchangePath::flat) return;
  int size = options.ranks_per_node;
  bool possible = true;
  if (size == 0) {
    const Communicator found = group_.split_by_node();
    size = found.size();
    // Nodes of one size, each with consecutive ranks.
    const bool mine = ranks % size == 0 && rank % size == found.rank();
    possible = group_.all_reduce_max(mine ? 0 : 1) == 0 &&
               group_.all_reduce_max(size) == -group_.all_reduce_max(-size);
  }
  possible = possible && ranks % size == 0;
  const bool useful = possible && size > 1 && size < ranks;
  if (!useful) {
    if (options.path == ExchangePath::node)
      throw InputError(
          "parallel/exchange = \"node\": the " + std::to_string(ranks) +
          " ranks of an expert group do not lie on several nodes with equally many, consecutive "
          "ranks each (" + std::to_string(size) + " on this rank's node): use \"flat\"");
    return;
  }
  node_ranks_ = size;
  node_ = group_.split(rank / size, rank);
  across_ = group_.split(rank % size, rank);
}

std::string ExpertExchange::description() const {
  std::string text = node_ranks_ > 0 ? "by node (" + std::to_string(node_ranks_) + " ranks each)"
                                     : std::string("flat");
  if (staged_ || node_ranks_ > 0)
    text += ", staged through host memory";
  else
    text += host_accessible ? ", straight from memory" : ", MPI reads device memory";
  return text;
}

void ExpertExchange::plan(const ExecutionSpace& space, Arena& saved, std::span<const int> offsets,
                          std::size_t row_bytes, ExchangePlan& plan) {
  const int experts = static_cast<int>(offsets.size()) - 1;
  plan.ranks = group_.size();
  plan.rank = group_.rank();
  plan.owned = owned_experts(experts, plan.rank, plan.ranks);
  plan.node_ranks = node_ranks_;
  plan.counts.resize(static_cast<std::size_t>(experts));
  for (std::size_t e = 0; e + 1 < offsets.size(); ++e)
    plan.counts[e] = offsets[e + 1] - offsets[e];
  plan.arrivals.resize(static_cast<std::size_t>(plan.ranks * plan.owned.size()));
  int rows_of_all = 0;
  if (node_ranks_ > 0)
    share_counts_by_node(plan, rows_of_all);
  else
    share_counts_flat(plan, rows_of_all);

  const int most = (experts + plan.ranks - 1) / plan.ranks;  // experts of any rank
  const std::size_t bytes = static_cast<std::size_t>(rows_of_all) * row_bytes /
                            (static_cast<std::size_t>(plan.ranks) * static_cast<std::size_t>(experts));
  const int wanted = options_.exchange_chunks > 0 ? options_.exchange_chunks
                     : bytes >= worth_its_own_message ? most
                                                      : 1;
  plan.chunks = std::min(wanted, most);
  plan.lay_out();
  if (node_ranks_ > 0) numbers_->lay_out_transit(plan);

  const auto local = static_cast<std::size_t>(plan.owned.size());
  const auto sources = static_cast<std::size_t>(plan.ranks);
  auto& rows = numbers_->block_row;
  auto& arrivals = numbers_->block_arrival;
  rows.resize(local * sources);
  arrivals.resize(local * sources);
  for (int c = 0; c < plan.chunks; ++c) {
    for (std::size_t p = 0; p < sources; ++p) {
      int place = plan.receive_offsets[static_cast<std::size_t>(c) * sources + p];
      for (int e = plan.first_expert(c); e < plan.first_expert(c + 1); ++e) {
        const auto expert = static_cast<std::size_t>(e);
        const std::size_t block = expert * sources + p;
        arrivals[block] = place;
        place += plan.arrivals[p * local + expert];
        rows[block] = p == 0 ? plan.expert_offsets[expert]
                             : rows[block - 1] + plan.arrivals[(p - 1) * local + expert];
      }
    }
  }
  plan.block_row = saved.vector<int>(local * sources);
  plan.block_arrival = saved.vector<int>(local * sources);
  using Host = Kokkos::View<const int*, Kokkos::LayoutRight, Kokkos::HostSpace>;
  Kokkos::deep_copy(space, plan.block_row, Host(rows.data(), rows.size()));
  Kokkos::deep_copy(space, plan.block_arrival, Host(arrivals.data(), arrivals.size()));
  space.fence(KOKOMOE_LABEL("parallel::exchange::plan"));
}

void ExpertExchange::share_counts_flat(ExchangePlan& plan, int& rows_of_all) {
  CountBuffers& n = *numbers_;
  int largest = 0, rows = 0;
  n.begin_message();
  for (int q = 0; q < plan.ranks; ++q) {
    const ExpertRange block = owned_experts(plan.owned.total, q, plan.ranks);
    const int sum = n.rows_of(plan, block);
    largest = std::max(largest, sum);
    rows += sum;
  }
  for (int q = 0; q < plan.ranks; ++q) {
    const ExpertRange block = owned_experts(plan.owned.total, q, plan.ranks);
    for (int e = block.begin; e < block.end; ++e)
      n.put(plan.counts[static_cast<std::size_t>(e)]);
    n.put(largest);
    n.put(rows);
    n.end_part();
  }
  n.expect(std::vector<int>(static_cast<std::size_t>(plan.ranks), plan.owned.size() + 2));
  n.exchange(n.all);
  plan.largest = rows_of_all = 0;
  for (int p = 0; p < plan.ranks; ++p) {
    for (int e = 0; e < plan.owned.size(); ++e)
      plan.arrivals[static_cast<std::size_t>(p * plan.owned.size() + e)] = n.get();
    plan.largest = std::max(plan.largest, n.get());
    rows_of_all = n.add_rows(rows_of_all, n.get());
  }
}

void ExpertExchange::share_counts_by_node(ExchangePlan& plan, int& rows_of_all) {
  CountBuffers& n = *numbers_;
  const int in_node = node_ranks_, nodes = plan.ranks / in_node, own = plan.rank % in_node;
  const auto block_of = [&](int node, int s) {
    return owned_experts(plan.owned.total, node * in_node + s, plan.ranks);
  };
  // Within the node: to rank s what all ranks s of the other nodes are to know.
  int largest = 0, rows = 0;
  for (int s = 0; s < in_node; ++s) {
    int sum = 0;
    for (int m = 0; m < nodes; ++m) sum += n.rows_of(plan, block_of(m, s));
    largest = std::max(largest, sum);
    rows += sum;
  }
  n.begin_message();
  for (int s = 0; s < in_node; ++s) {
    for (int m = 0; m < nodes; ++m)
      for (int e = block_of(m, s).begin; e < block_of(m, s).end; ++e)
        n.put(plan.counts[static_cast<std::size_t>(e)]);
    n.put(largest);
    n.put(rows);
    n.end_part();
  }
  int size = 2;
  for (int m = 0; m < nodes; ++m) size += block_of(m, own).size();
  n.expect(std::vector<int>(static_cast<std::size_t>(in_node), size));
  n.exchange(n.node);
  n.start_transit(in_node, nodes);
  plan.largest_in_node = 0;
  int node_rows = 0;
  for (int s = 0; s < in_node; ++s) {
    for (int m = 0; m < nodes; ++m) n.transit_counts(block_of(m, own).size());
    plan.largest_in_node = std::max(plan.largest_in_node, n.get());
    node_rows = n.add_rows(node_rows, n.get());
  }
  // Between nodes.
  largest = 0;
  for (int m = 0; m < nodes; ++m) largest = std::max(largest, n.transit_rows(m));
  n.begin_message();
  for (int m = 0; m < nodes; ++m) {
    n.put_transit(m);
    n.put(largest);
    n.put(node_rows);
    n.end_part();
  }
  n.expect(std::vector<int>(static_cast<std::size_t>(nodes), in_node * plan.owned.size() + 2));
  n.exchange(n.across);
  plan.largest_between_nodes = rows_of_all = 0;
  for (int m = 0; m < nodes; ++m) {
    for (int s = 0; s < in_node; ++s)
      for (int e = 0; e < plan.owned.size(); ++e)
        plan.arrivals[static_cast<std::size_t>((m * in_node + s) * plan.owned.size() + e)] = n.get();
    plan.largest_between_nodes = std::max(plan.largest_between_nodes, n.get());
    rows_of_all = n.add_rows(rows_of_all, n.get());
  }
}

int ExpertExchange::begin(const ExecutionSpace& space, const ExchangePlan& plan, int chunk, Way way,
                          const void* from, void* to, std::size_t item_bytes, bool wait) {
  std::size_t ticket = 0;
  while (ticket < slots_.size() && slots_[ticket]->busy()) ++ticket;
  if (ticket == slots_.size())
    slots_.push_back(std::make_unique<Slot>(group_, node_, across_, options_.largest_message));
  slots_[ticket]->begin(space, plan, chunk, way == Way::back, staged_, from, to, item_bytes, wait);
  return static_cast<int>(ticket);
}

void ExpertExchange::finish(const ExecutionSpace& space, int ticket) {
  slots_[static_cast<std::size_t>(ticket)]->finish(space);
}

void ExpertExchange::progress() {
  for (const auto& slot : slots_)
    if (slot->busy()) slot->progress();
}

}  // namespace kokomoe
