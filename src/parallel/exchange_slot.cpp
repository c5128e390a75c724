// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/exchange_slot.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace kokomoe {

namespace {

void copy_bytes(const ExecutionSpace& space, void* to, const void* from, std::size_t bytes,
                bool to_host) {
  if (bytes == 0) return;
  if constexpr (host_accessible) {
    std::memcpy(to, from, bytes);
  } else {
    using Host = Kokkos::View<unsigned char*, Kokkos::HostSpace, Kokkos::MemoryUnmanaged>;
    using HostConst = Kokkos::View<const unsigned char*, Kokkos::HostSpace, Kokkos::MemoryUnmanaged>;
    using Device = Kokkos::View<unsigned char*, MemorySpace, Kokkos::MemoryUnmanaged>;
    using DeviceConst = Kokkos::View<const unsigned char*, MemorySpace, Kokkos::MemoryUnmanaged>;
    if (to_host)
      Kokkos::deep_copy(space, Host(static_cast<unsigned char*>(to), bytes),
                        DeviceConst(static_cast<const unsigned char*>(from), bytes));
    else
      Kokkos::deep_copy(space, Device(static_cast<unsigned char*>(to), bytes),
                        HostConst(static_cast<const unsigned char*>(from), bytes));
  }
}

void offsets_of(const std::vector<int>& counts, std::vector<int>& offsets) {
  offsets.resize(counts.size());
  std::exclusive_scan(counts.begin(), counts.end(), offsets.begin(), 0);
}

int sum_of(const std::vector<int>& counts) {
  return std::accumulate(counts.begin(), counts.end(), 0);
}

AllToAll::Part part(void* data, const std::vector<int>& counts, const std::vector<int>& offsets) {
  return {data, counts, offsets};
}

}  // namespace

ExpertExchange::Slot::Slot(const Communicator& group, const Communicator& node,
                           const Communicator& across, std::size_t largest_message)
    : flat_(group, largest_message),
      within_(node, largest_message),
      between_(across, largest_message) {}

void ExpertExchange::Slot::pack(const ExecutionSpace& space, const Side& side,
                                const std::vector<int>& order, const void* device,
                                unsigned char* host) const {
  for (const int q : order) {
    const auto rank = static_cast<std::size_t>(q);
    const std::size_t bytes = static_cast<std::size_t>(side.counts[rank]) * item_bytes_;
    copy_bytes(space, host,
               static_cast<const unsigned char*>(device) +
                   static_cast<std::size_t>(side.offsets[rank]) * item_bytes_,
               bytes, true);
    host += bytes;
  }
  space.fence(KOKOMOE_LABEL("parallel::exchange::to_host"));
}

void ExpertExchange::Slot::unpack(const ExecutionSpace& space, const Side& side,
                                  const std::vector<int>& order, const unsigned char* host,
                                  void* device) const {
  for (const int q : order) {
    const auto rank = static_cast<std::size_t>(q);
    const std::size_t bytes = static_cast<std::size_t>(side.counts[rank]) * item_bytes_;
    copy_bytes(space,
               static_cast<unsigned char*>(device) +
                   static_cast<std::size_t>(side.offsets[rank]) * item_bytes_,
               host, bytes, false);
    host += bytes;
  }
  space.fence(KOKOMOE_LABEL("parallel::exchange::to_device"));
}

void ExpertExchange::Slot::begin(const ExecutionSpace& space, const ExchangePlan& plan, int chunk,
                                 bool back, bool staged, const void* from, void* to,
                                 std::size_t item_bytes, bool wait) {
  const auto ranks = static_cast<std::size_t>(plan.ranks);
  const auto first = static_cast<std::ptrdiff_t>(static_cast<std::size_t>(chunk) * ranks);
  const auto cut = [&](const std::vector<int>& all, std::vector<int>& own) {
    own.assign(all.begin() + first, all.begin() + first + static_cast<std::ptrdiff_t>(ranks));
  };
  Side& out = back ? receive_ : send_;
  Side& in = back ? send_ : receive_;
  cut(plan.send_counts, out.counts);
  cut(plan.send_offsets, out.offsets);
  cut(plan.receive_counts, in.counts);
  cut(plan.receive_offsets, in.offsets);
  from_ = from;
  to_ = to;
  item_bytes_ = item_bytes;
  staged_ = staged;
  back_ = back;
  by_node_ = plan.node_ranks > 0;
  busy_ = true;
  straight_.resize(ranks);
  std::iota(straight_.begin(), straight_.end(), 0);
  if (by_node_) return begin_by_node(space, plan, chunk);

  if (!staged_) {
    space.fence(KOKOMOE_LABEL("parallel::exchange::begin"));
    flat_.begin(part(const_cast<void*>(from), send_.counts, send_.offsets),
                part(to, receive_.counts, receive_.offsets), item_bytes, plan.largest, wait);
    return;
  }
  offsets_of(send_.counts, packed_send_);
  offsets_of(receive_.counts, packed_receive_);
  unsigned char* const out_host =
      buffers_[0].of(static_cast<std::size_t>(sum_of(send_.counts)) * item_bytes);
  unsigned char* const in_host =
      buffers_[1].of(static_cast<std::size_t>(sum_of(receive_.counts)) * item_bytes);
  pack(space, send_, straight_, from, out_host);
  flat_.begin(part(out_host, send_.counts, packed_send_),
              part(in_host, receive_.counts, packed_receive_), item_bytes, plan.largest, wait);
}

void ExpertExchange::Slot::finish(const ExecutionSpace& space) {
  if (!busy_) return;
  if (by_node_) {
    finish_by_node(space);
  } else {
    flat_.finish();
    if (staged_)
      unpack(space, receive_, straight_,
             buffers_[1].of(static_cast<std::size_t>(sum_of(receive_.counts)) * item_bytes_), to_);
  }
  busy_ = false;
}

void ExpertExchange::Slot::progress() {
  if (!by_node_)
    flat_.test();
  else if (back_)
    between_.test();
  else
    within_.test();
}

// Rank s of node n sends within its node, to rank s', what goes to rank s' of any node; s' hands it
// on to its twins, with what the others of its node have for them. Rows of one target come out in
// the order of source ranks, as they do without nodes.
void ExpertExchange::Slot::begin_by_node(const ExecutionSpace& space, const ExchangePlan& plan,
                                         int chunk) {
  in_node_ = plan.node_ranks;
  nodes_ = plan.ranks / in_node_;
  largest_in_node_ = plan.largest_in_node;
  largest_between_ = plan.largest_between_nodes;
  const auto cells = static_cast<std::ptrdiff_t>(in_node_ * nodes_);
  transit_.assign(plan.transit.begin() + chunk * cells, plan.transit.begin() + (chunk + 1) * cells);
  const auto transit = [&](int s, int m) { return transit_[static_cast<std::size_t>(s * nodes_ + m)]; };

  by_place_.clear();
  for (int s = 0; s < in_node_; ++s)
    for (int m = 0; m < nodes_; ++m) by_place_.push_back(m * in_node_ + s);

  // The end that this rank's own tokens are at (within the node), and that of its experts (across).
  const Side& tokens = back_ ? receive_ : send_;
  const Side& experts = back_ ? send_ : receive_;
  std::vector<int>& out_node = ends_counts_;
  out_node.assign(static_cast<std::size_t>(in_node_), 0);
  node_counts_.assign(static_cast<std::size_t>(in_node_), 0);
  for (int s = 0; s < in_node_; ++s)
    for (int m = 0; m < nodes_; ++m) {
      out_node[static_cast<std::size_t>(s)] += tokens.counts[static_cast<std::size_t>(m * in_node_ + s)];
      node_counts_[static_cast<std::size_t>(s)] += transit(s, m);
    }
  across_counts_.assign(static_cast<std::size_t>(2 * nodes_), 0);
  for (int m = 0; m < nodes_; ++m)
    for (int s = 0; s < in_node_; ++s) {
      across_counts_[static_cast<std::size_t>(m)] += transit(s, m);
      across_counts_[static_cast<std::size_t>(nodes_ + m)] +=
          experts.counts[static_cast<std::size_t>(m * in_node_ + s)];
    }
  offsets_of(ends_counts_, ends_offsets_);
  offsets_of(node_counts_, node_offsets_);
  across_offsets_.resize(across_counts_.size());
  for (int half = 0; half < 2; ++half) {
    const auto begin = across_counts_.begin() + half * nodes_;
    std::exclusive_scan(begin, begin + nodes_, across_offsets_.begin() + half * nodes_, 0);
  }

  const std::size_t at_tokens = static_cast<std::size_t>(sum_of(tokens.counts)) * item_bytes_;
  const std::size_t on_the_way = static_cast<std::size_t>(sum_of(transit_)) * item_bytes_;
  const std::size_t at_experts = static_cast<std::size_t>(sum_of(experts.counts)) * item_bytes_;
  buffers_[0].of(at_tokens);
  buffers_[1].of(on_the_way);
  buffers_[2].of(on_the_way);
  buffers_[3].of(at_experts);
  const auto first_half = std::span<const int>(across_counts_).first(static_cast<std::size_t>(nodes_));
  const auto first_offsets =
      std::span<const int>(across_offsets_).first(static_cast<std::size_t>(nodes_));
  const auto last_half = std::span<const int>(across_counts_).last(static_cast<std::size_t>(nodes_));
  const auto last_offsets =
      std::span<const int>(across_offsets_).last(static_cast<std::size_t>(nodes_));
  if (!back_) {
    pack(space, tokens, by_place_, from_, buffers_[0].of(0));
    within_.begin(part(buffers_[0].of(0), ends_counts_, ends_offsets_),
                  part(buffers_[1].of(0), node_counts_, node_offsets_), item_bytes_,
                  largest_in_node_);
  } else {
    pack(space, experts, straight_, from_, buffers_[3].of(0));
    between_.begin({buffers_[3].of(0), last_half, last_offsets},
                   {buffers_[2].of(0), first_half, first_offsets}, item_bytes_, largest_between_);
  }
}

void ExpertExchange::Slot::finish_by_node(const ExecutionSpace& space) {
  // Buffer 1 holds rows by (rank of the node, node), buffer 2 by (node, rank of the node).
  const auto regroup = [&](bool to_nodes) {
    std::vector<std::size_t> place(transit_.size());
    std::size_t sum = 0;
    for (std::size_t m = 0; m < static_cast<std::size_t>(nodes_); ++m)
      for (std::size_t s = 0; s < static_cast<std::size_t>(in_node_); ++s) {
        place[s * static_cast<std::size_t>(nodes_) + m] = sum;
        sum += static_cast<std::size_t>(transit_[s * static_cast<std::size_t>(nodes_) + m]);
      }
    std::size_t first = 0;
    for (std::size_t cell = 0; cell < transit_.size(); ++cell) {
      const std::size_t bytes = static_cast<std::size_t>(transit_[cell]) * item_bytes_;
      unsigned char* const one = buffers_[1].of(0) + first * item_bytes_;
      unsigned char* const two = buffers_[2].of(0) + place[cell] * item_bytes_;
      if (bytes > 0) std::memcpy(to_nodes ? two : one, to_nodes ? one : two, bytes);
      first += static_cast<std::size_t>(transit_[cell]);
    }
  };
  const auto nodes = static_cast<std::size_t>(nodes_);
  const std::span<const int> counts(across_counts_), offsets(across_offsets_);
  if (!back_) {
    within_.finish();
    regroup(true);
    between_.begin({buffers_[2].of(0), counts.first(nodes), offsets.first(nodes)},
                   {buffers_[3].of(0), counts.last(nodes), offsets.last(nodes)}, item_bytes_,
                   largest_between_, true);
    between_.finish();
    unpack(space, receive_, straight_, buffers_[3].of(0), to_);
  } else {
    between_.finish();
    regroup(false);
    within_.begin(part(buffers_[1].of(0), node_counts_, node_offsets_),
                  part(buffers_[0].of(0), ends_counts_, ends_offsets_), item_bytes_,
                  largest_in_node_, true);
    within_.finish();
    unpack(space, receive_, by_place_, buffers_[0].of(0), to_);
  }
}

}  // namespace kokomoe
