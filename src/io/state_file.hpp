// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "io/manifest.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

/// state.h5 itself. No HDF5 type shows here; a build without HDF5 throws InputError instead.
namespace kokomoe::detail {

/// A tensor on its way to the file. Data: row-major, host memory.
struct TensorSource {
  std::string name;  ///< "parameters/NAME"
  std::vector<std::size_t> shape;
  std::string dtype;  ///< "float32" or "float64"
  bool expert = false;
  const void* data = nullptr;
};

/// Writes a new file; without close() it is left incomplete.
class StateWriter {
 public:
  StateWriter(const std::string& path, std::int64_t step);
  ~StateWriter();
  void add(const TensorSource& tensor);
  /// Flushes and closes; what was written, digests too.
  std::vector<DatasetRecord> close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct TensorHeader {
  std::vector<std::size_t> shape;
  std::string dtype;
  std::size_t bytes = 0;
};

/// Reads a file whose whole digest has been verified. Trusts nothing in it all the same: links,
/// types, layouts and sizes are checked before memory is taken. Throws DamagedCheckpoint that names
/// file and dataset.
class StateReader {
 public:
  explicit StateReader(const std::string& path);
  ~StateReader();
  std::int64_t step() const;
  /// Names of all tensors under /parameters, /optimizer and /router_state, in alphabetical order.
  std::vector<std::string> names() const;
  TensorHeader header(const std::string& name) const;
  /// The tensor's bytes, block digests verified.
  void read(const std::string& name, std::vector<std::byte>& bytes) const;
  const std::string& path() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Digests a tensor has: one for each first-axis block, one in all for a plain vector (whose blocks
/// would be smaller than their digests).
std::size_t digest_blocks(const std::vector<std::size_t>& shape, bool expert);

}  // namespace kokomoe::detail
