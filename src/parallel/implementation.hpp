// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/communicator.hpp"

#include <cstddef>
#include <cstdint>
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

  /// Host copy of device data on its way through MPI; kept, so that steps do not allocate.
  mutable std::vector<unsigned char> staging;
};

}  // namespace kokomoe
