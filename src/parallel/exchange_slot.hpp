// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/all_to_all.hpp"
#include "kokomoe/parallel/expert_exchange.hpp"

#include <vector>

namespace kokomoe {

#if defined(KOKKOS_HAS_SHARED_HOST_PINNED_SPACE)
using StagingSpace = Kokkos::SharedHostPinnedSpace;
#else
using StagingSpace = Kokkos::HostSpace;
#endif

/// Host memory that grows and stays.
class StagingBuffer {
 public:
  unsigned char* of(std::size_t bytes) {
    if (bytes > memory_.extent(0))
      memory_ = Kokkos::View<unsigned char*, StagingSpace>(
          Kokkos::view_alloc("kokomoe::parallel::staging", Kokkos::WithoutInitializing), bytes);
    return memory_.data();
  }

 private:
  Kokkos::View<unsigned char*, StagingSpace> memory_;
};

/// One part of an exchange on its way.
struct ExpertExchange::Slot {
  Slot(const Communicator& group, const Communicator& node, const Communicator& across,
       std::size_t largest_message);

  void begin(const ExecutionSpace& space, const ExchangePlan& plan, int chunk, bool back,
             bool staged, const void* from, void* to, std::size_t item_bytes, bool wait);
  void finish(const ExecutionSpace& space);
  bool busy() const { return busy_; }
  void progress();

 private:
  /// What lies with one rank each, in rank order: counts and where they lie on the device.
  struct Side {
    std::vector<int> counts, offsets;
  };
  void pack(const ExecutionSpace& space, const Side& side, const std::vector<int>& order,
            const void* device, unsigned char* host) const;
  void unpack(const ExecutionSpace& space, const Side& side, const std::vector<int>& order,
              const unsigned char* host, void* device) const;
  void begin_by_node(const ExecutionSpace& space, const ExchangePlan& plan, int chunk);
  void finish_by_node(const ExecutionSpace& space);

  AllToAll flat_, within_, between_;
  StagingBuffer buffers_[4];
  Side send_, receive_;
  std::vector<int> packed_send_, packed_receive_;      // offsets in staging memory
  std::vector<int> straight_, by_place_;               // orders of ranks
  std::vector<int> node_counts_, node_offsets_, across_counts_, across_offsets_;
  std::vector<int> ends_counts_, ends_offsets_;
  std::vector<int> transit_;                           // (S, N) of this part
  int nodes_ = 0, in_node_ = 0, largest_in_node_ = 0, largest_between_ = 0;
  const void* from_ = nullptr;
  void* to_ = nullptr;
  std::size_t item_bytes_ = 0;
  bool busy_ = false, staged_ = false, back_ = false, by_node_ = false;
};

/// The small messages that say how many rows will come.
struct ExpertExchange::CountBuffers {
  CountBuffers(const Communicator& group, const Communicator& in_node, const Communicator& twins)
      : all(group), node(in_node), across(twins) {}

  AllToAll all, node, across;
  std::vector<int> block_row, block_arrival;

  void begin_message();
  void put(int value) { message_.push_back(value); }
  void end_part();
  void expect(const std::vector<int>& sizes);
  void exchange(AllToAll& ranks);
  int get() { return answer_[next_++]; }
  /// The sum; throws Error beyond 2^31 - 1.
  static int add_rows(int a, int b);
  static int rows_of(const ExchangePlan& plan, const ExpertRange& block);

  /// Counts of rank s of this node for the experts of this rank's twin on node m, by (s, m).
  void start_transit(int in_node, int nodes);
  void transit_counts(int size);  ///< the next (s, m)
  int transit_rows(int m) const;
  void put_transit(int m);
  void lay_out_transit(ExchangePlan& plan) const;

 private:
  std::vector<int> message_, answer_;
  std::vector<int> send_counts_, send_offsets_, receive_counts_, receive_offsets_;
  std::size_t next_ = 0;
  int in_node_ = 0, nodes_ = 0;
  std::vector<int> transit_;
  std::vector<std::size_t> transit_place_;  // (S, N) begin of each in transit_
  std::vector<int> transit_size_;           // (S, N)
};

}  // namespace kokomoe
