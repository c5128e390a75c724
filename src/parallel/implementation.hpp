// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/all_to_all.hpp"
#include "kokomoe/parallel/communicator.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace kokomoe {

/// What several ranks do. Keeps MPI out of communicator.cpp and of every header but mpi.hpp.
struct Communicator::Implementation {
  virtual ~Implementation() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual void sum(float* data, std::size_t count) const = 0;
  virtual void sum(double* data, std::size_t count) const = 0;
  virtual void sum(std::int32_t* data, std::size_t count) const = 0;
  virtual void sum(std::int64_t* data, std::size_t count) const = 0;
  virtual std::int64_t max(std::int64_t value) const = 0;
  virtual void broadcast(void* data, std::size_t bytes) const = 0;
  virtual void barrier() const = 0;
  virtual void all_gather(const void* own, std::size_t bytes, void* all) const = 0;
  virtual void send(const void* data, std::size_t bytes, int to) const = 0;
  virtual void receive(void* data, std::size_t bytes, int from) const = 0;
  virtual std::shared_ptr<const Implementation> split(int color, int key) const = 0;
  virtual std::shared_ptr<const Implementation> split_by_node() const = 0;
  virtual std::unique_ptr<AllToAll::State> make_all_to_all() const = 0;

  /// Host copy of device data on its way through MPI; kept, so that steps do not allocate.
  mutable std::vector<unsigned char> staging;
};

/// One exchange under way.
struct AllToAll::State {
  virtual ~State() = default;
  virtual void begin(const Part& send, const Part& receive, std::size_t item_bytes,
                     std::size_t items_at_once, int rounds, bool wait) = 0;
  virtual bool test() = 0;
  virtual void finish() = 0;
};

}  // namespace kokomoe
