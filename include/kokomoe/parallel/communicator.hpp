// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/types.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace kokomoe {

/// A group of processes. The same calls work on one rank without MPI. Kokomoe never initialises
/// MPI and never names its world: the program hands its communicator over (see parallel/mpi.hpp).
/// Reductions are sums in a fixed order for a given number of ranks. Every call is collective.
class Communicator {
 public:
  /// One rank, alone.
  Communicator();

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool is_root() const { return rank_ == 0; }

  /// Sums `data` over the ranks, in place. Host memory. T: float, double, int32, int64.
  template <class T>
  void all_reduce_sum(T* data, std::size_t count) const;

  /// The same for a device view; staged through host memory where MPI cannot read the device.
  /// Waits for `space` first. Nothing happens on one rank.
  template <class T>
  void all_reduce_sum(const ExecutionSpace& space, const Vector<T>& data) const;

  /// The largest value over the ranks (flags, error agreement).
  std::int64_t all_reduce_max(std::int64_t value) const;

  /// Every rank's `bytes`, in rank order, to `all` (size() times as many). Host memory.
  void all_gather(const void* own, std::size_t bytes, void* all) const;

  /// From this rank to another of the group, and back again: host memory, any size, in order.
  /// Not collective; every send needs its receive.
  void send(const void* data, std::size_t bytes, int to) const;
  void receive(void* data, std::size_t bytes, int from) const;

  /// The ranks that gave the same `color`, in the order of `key` (then of rank), as a group.
  /// One rank alone is its own group.
  Communicator split(int color, int key) const;
  /// The ranks that share memory with this one: its node.
  Communicator split_by_node() const;

  /// Root's bytes to everyone.
  void broadcast(void* data, std::size_t bytes) const;
  std::string broadcast(const std::string& text) const;

  void barrier() const;

  /// Opaque implementation; null on one rank without MPI.
  struct Implementation;
  explicit Communicator(std::shared_ptr<const Implementation> implementation);
  const Implementation* implementation() const { return implementation_.get(); }

 private:
  std::shared_ptr<const Implementation> implementation_;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace kokomoe
