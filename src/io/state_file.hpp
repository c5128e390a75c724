// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "io/manifest.hpp"
#include "io/tensor_pieces.hpp"
#include "kokomoe/parallel/communicator.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

/// state.h5 itself. No HDF5 type shows here; a build without HDF5 throws InputError instead.
namespace kokomoe::detail {

/// A dataset to be made.
struct TensorLayout {
  std::string name;                ///< "parameters/NAME"
  std::vector<std::size_t> shape;  ///< of the whole tensor, whatever ranks hold of it
  std::string dtype;               ///< "float32" or "float64"
  bool expert = false;
  std::vector<std::string> axes;  ///< what each axis counts; empty names are filled in
};

/// Makes a new state.h5 with groups, attributes and room for every dataset, a digest dataset for
/// each tensor among them, but no data. So the file's bytes do not depend on who writes the data.
/// Where each dataset lies; digests are not known yet.
std::vector<DatasetRecord> create_state(const std::string& path, const CheckpointMeta& meta,
                                        const std::vector<TensorLayout>& tensors);

/// True when state files can be written by several ranks at once: HDF5 and Kokomoe have MPI.
bool can_write_together();

/// Writes data into the datasets of a file that create_state made.
class StateData {
 public:
  /// For one process: opens the file.
  explicit StateData(const std::string& path);
  /// For all `ranks` at once. Not collective yet: sees that this rank can open the file. Then come
  /// `connect` and `open_file`, each only when all ranks have done what comes before.
  StateData(const std::string& path, const Communicator& ranks);
  /// Collective where several ranks write, as are `connect`, `open_file`, `write_together`,
  /// `close`.
  ~StateData();
  void connect();
  void open_file();
  /// Goes to dataset `name`; not collective.
  void open(const std::string& name);
  /// A piece of the dataset that is open, row-major, host memory; not collective.
  void write(const Piece& piece, const void* data);
  /// The same by all ranks, each its own piece, or none (null).
  void write_together(const Piece* piece, const void* data);
  /// Closes; of several ranks, those that are not the root sync what they wrote.
  void close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct TensorHeader {
  std::vector<std::size_t> shape;
  std::string dtype;
  std::size_t bytes = 0;
  std::size_t element_bytes() const { return dtype == "float32" ? 4 : 8; }
};

/// Reads a file whose whole digest has been verified. Trusts nothing in it all the same: links,
/// types, layouts and sizes are checked before memory is taken. Throws DamagedCheckpoint that names
/// file and dataset.
class StateReader {
 public:
  using Bytes = std::vector<std::byte>;

  explicit StateReader(const std::string& path);
  ~StateReader();
  std::int64_t step() const;
  /// Names of all tensors under /parameters, /optimizer and /router_state, in alphabetical order.
  std::vector<std::string> names() const;
  TensorHeader header(const std::string& name) const;
  /// Pieces of the whole tensor, of the size that reading takes at a time.
  std::vector<Piece> pieces(const std::string& name) const;
  /// One piece of a tensor, not verified.
  void read(const std::string& name, const Piece& piece, Bytes& bytes) const;
  /// Reads all pieces in order, hands each to `take`, and verifies the block digests.
  void verify(const std::string& name,
              const std::function<void(const Bytes&)>& take = nullptr) const;
  const std::string& path() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kokomoe::detail
