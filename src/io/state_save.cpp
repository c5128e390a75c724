// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/state_save.hpp"

#include "io/digest.hpp"
#include "io/disk.hpp"
#include "io/state_file.hpp"
#include "kokomoe/core/error.hpp"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>

namespace kokomoe::detail {

namespace {

template <class T>
std::vector<TensorLayout> layouts_of(const std::vector<Slot<T>>& slots) {
  std::vector<TensorLayout> layouts;
  for (const Slot<T>& slot : slots)
    layouts.push_back(
        {slot.name, slot.spec->shape, dtype_name<T>(), slot.spec->expert, slot.spec->axes});
  return layouts;
}

/// Brings the tensors from the ranks that hold them, the first P of P expert ranks, to the file.
template <class T>
class DataSave {
 public:
  /// Collective over `holders`. `digests` gets each tensor's block digests on the root.
  DataSave(const std::string& path, const Communicator& holders, bool together,
           std::vector<std::vector<std::uint64_t>>& digests)
      : holders_(holders), errors_(holders), together_(together), digests_(digests) {
    errors_.attempt([&] {
      buffer_.resize(std::max<std::size_t>(1, checkpoint_tuning.piece_bytes / sizeof(T)));
      if (!together_ && holders_.is_root()) data_ = std::make_unique<StateData>(path);
    });
    errors_.agree();
    if (!together_) return;
    // Nobody goes on to what is collective before all can: the others would wait for ever.
    errors_.attempt([&] { data_ = std::make_unique<StateData>(path, holders_); });
    errors_.agree();
    errors_.attempt([&] { data_->connect(); });
    errors_.agree();
    errors_.attempt([&] { data_->open_file(); });
    errors_.agree();
  }

  /// Collective.
  void save(const Slot<T>& slot) {
    errors_.attempt([&] {
      if (data_) data_->open(slot.name);
    });
    errors_.agree();
    const int ranks = slot.sharded ? holders_.size() : 1;
    std::vector<std::vector<Piece>> pieces;
    std::size_t most = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      pieces.push_back(pieces_of(slot, rank));
      most = std::max(most, pieces.back().size());
    }
    BlockDigests digests(block_bytes(slot));
    if (together_ && ranks > 1) {
      const std::vector<Piece>& own = pieces[static_cast<std::size_t>(holders_.rank())];
      for (std::size_t i = 0; i < most; ++i) {
        const Piece* const piece = i < own.size() ? &own[i] : nullptr;
        if (piece != nullptr) fetch(slot, *piece, digests);
        // Whatever failed here, the other ranks wait for this call.
        write_together(errors_.failed() ? nullptr : piece);
      }
    } else {
      for (int rank = 0; rank < ranks; ++rank)
        for (const Piece& piece : pieces[static_cast<std::size_t>(rank)])
          pass(slot, rank, piece, digests);
    }
    collect(slot, ranks, digests);
  }

  /// Collective: the digests that were collected, then the end of the file.
  void finish(const std::vector<Slot<T>>& slots) {
    errors_.attempt([&] {
      if (!holders_.is_root()) return;
      for (std::size_t i = 0; i < slots.size(); ++i) {
        data_->open("digests/" + slots[i].name);
        const std::size_t count = digests_[i].size();
        if (count > 0) data_->write({0, count, 0, 1, 0, count}, digests_[i].data());
      }
    });
    errors_.agree();
    errors_.attempt([&] {
      if (data_) data_->close();
    });
    errors_.agree();
  }

 private:
  std::vector<Piece> pieces_of(const Slot<T>& slot, int rank) const {
    std::size_t row = 0, rows = slot.spec->shape[0];
    if (slot.sharded) {
      const ExpertRange held = rows_held(slot, rank, holders_.size());
      row = static_cast<std::size_t>(held.begin);
      rows = static_cast<std::size_t>(held.size());
    }
    return cut_rows(slot.spec->shape, row, rows, sizeof(T), checkpoint_tuning.piece_bytes);
  }

  std::size_t blocks(const Slot<T>& slot) const {
    return digest_blocks(slot.spec->shape, slot.spec->expert);
  }

  std::size_t block_bytes(const Slot<T>& slot) const {
    std::size_t bytes = sizeof(T);
    for (const std::size_t extent : slot.spec->shape) bytes *= extent;
    return blocks(slot) == 0 ? 1 : bytes / blocks(slot);
  }

  /// This rank's piece from the device to the buffer.
  void fetch(const Slot<T>& slot, const Piece& piece, BlockDigests& digests) {
    errors_.attempt([&] {
      buffer_.resize(std::max(buffer_.size(), piece.elements));
      std::size_t row_elements = 1;
      for (std::size_t i = 1; i < slot.spec->shape.size(); ++i) row_elements *= slot.spec->shape[i];
      const std::size_t first = piece.first - slot.row * row_elements;
      const Kokkos::View<T*, Kokkos::LayoutRight, Kokkos::HostSpace> host(buffer_.data(),
                                                                          piece.elements);
      Kokkos::deep_copy(host, Kokkos::subview(slot.values, Kokkos::pair<std::size_t, std::size_t>(
                                                               first, first + piece.elements)));
      digests.add(buffer_.data(), piece.elements * sizeof(T));
    });
  }

  void write_together(const Piece* piece) {
    // Not an attempt: that would stay away after an error.
    try {
      data_->write_together(piece, buffer_.data());
    } catch (const std::exception&) {
      errors_.attempt([] { throw; });
    }
  }

  /// A piece that the root writes, its own or another's.
  void pass(const Slot<T>& slot, int rank, const Piece& piece, BlockDigests& digests) {
    const std::size_t bytes = piece.elements * sizeof(T);
    if (holders_.rank() == rank) fetch(slot, piece, digests);
    if (rank != 0 && (holders_.is_root() || holders_.rank() == rank)) {
      buffer_.resize(std::max(buffer_.size(), piece.elements));
      if (holders_.is_root())
        holders_.receive(buffer_.data(), bytes, rank);
      else
        holders_.send(buffer_.data(), bytes, 0);
    }
    errors_.attempt([&] {
      if (holders_.is_root()) data_->write(piece, buffer_.data());
    });
  }

  /// Everyone's block digests to the root.
  void collect(const Slot<T>& slot, int ranks, const BlockDigests& own) {
    std::vector<std::uint64_t> values = own.values();
    const auto count_of = [&](int rank) {
      return slot.sharded ? static_cast<std::size_t>(rows_held(slot, rank, ranks).size())
                          : blocks(slot);
    };
    const bool empty = blocks(slot) == 0;
    for (int rank = 1; rank < ranks && !empty; ++rank) {
      std::vector<std::uint64_t> part(count_of(rank));
      if (part.empty()) continue;
      if (holders_.is_root()) {
        holders_.receive(part.data(), part.size() * sizeof(std::uint64_t), rank);
        values.insert(values.end(), part.begin(), part.end());
      } else if (holders_.rank() == rank) {
        values.resize(part.size());  // fewer where this rank failed
        holders_.send(values.data(), values.size() * sizeof(std::uint64_t), 0);
      }
    }
    if (holders_.is_root()) digests_.push_back(std::move(values));
  }

  const Communicator& holders_;
  Together errors_;
  bool together_;
  std::vector<std::vector<std::uint64_t>>& digests_;
  std::unique_ptr<StateData> data_;
  std::vector<T> buffer_;
};

/// True when ranks hold parts, HDF5 can write from several, and all of them see the root's file.
bool writes_together(const std::string& path, int expert_ranks, const Communicator& communicator) {
  if (expert_ranks == 1 || checkpoint_tuning.gather || !can_write_together()) return false;
  namespace fs = std::filesystem;
  const auto size = [&] {
    std::error_code code;
    const std::uintmax_t bytes = fs::file_size(path, code);
    return code ? std::uint64_t(0) : static_cast<std::uint64_t>(bytes);
  };
  std::uint64_t expected = communicator.is_root() ? size() : 0;
  communicator.broadcast(&expected, sizeof expected);
  const bool sees = communicator.rank() >= expert_ranks ||
                    (size() == expected && ::access(path.c_str(), R_OK | W_OK) == 0);
  return communicator.all_reduce_max(sees ? 0 : 1) == 0;
}

/// Reads the file back: its digest, each dataset's, and each block against its rank's digest.
template <class T>
void read_back(const std::string& path, const std::vector<Slot<T>>& slots,
               const std::vector<std::vector<std::uint64_t>>& digests, Manifest& manifest) {
  struct Place {
    FilePart part;
    std::size_t index = 0, block = 0;
  };
  std::vector<Place> wholes, blocks;
  for (std::size_t i = 0; i < manifest.datasets.size(); ++i) {
    DatasetRecord& record = manifest.datasets[i];
    record.digest = xxh3(nullptr, 0);
    if (record.bytes == 0) continue;
    wholes.push_back({{record.offset, record.bytes, 0}, i, 0});
    if (i % 2 == 1) continue;  // digests, which follow their tensor
    const std::size_t count = digests[i / 2].size();
    for (std::size_t b = 0; b < count; ++b)
      blocks.push_back(
          {{record.offset + b * (record.bytes / count), record.bytes / count, 0}, i, b});
  }
  const auto parts_of = [](std::vector<Place>& places) {
    std::sort(places.begin(), places.end(),
              [](const Place& a, const Place& b) { return a.part.offset < b.part.offset; });
    std::vector<FilePart> parts;
    for (const Place& place : places) parts.push_back(place.part);
    return parts;
  };
  std::vector<FilePart> whole_parts = parts_of(wholes), block_parts = parts_of(blocks);
  const FileDigest file = digest_file_parts(path, {&whole_parts, &block_parts});
  manifest.state_bytes = file.bytes;
  manifest.state_digest = file.digest;
  for (std::size_t i = 0; i < wholes.size(); ++i)
    manifest.datasets[wholes[i].index].digest = whole_parts[i].digest;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const std::size_t tensor = blocks[i].index / 2;
    if (block_parts[i].digest != digests[tensor][blocks[i].block])
      fail(path, "/" + slots[tensor].name + ": block " + std::to_string(blocks[i].block) +
                     " does not read back as its rank wrote it");
  }
}

}  // namespace

template <class T>
Manifest save_state(const std::string& path, const ParameterStore<T>& store,
                    const CheckpointMeta& meta, const Communicator& communicator) {
  const std::vector<Slot<T>> slots = slots_of(store, true);
  Manifest manifest;
  Together ranks(communicator);
  ranks.attempt([&] {
    if (!communicator.is_root()) return;
    manifest.meta = meta;
    manifest.datasets = create_state(path, meta, layouts_of(slots));
  });
  ranks.agree();
  const int expert_ranks = store.expert_ranks();
  const bool together = writes_together(path, expert_ranks, communicator);
  const bool holds = communicator.rank() < expert_ranks;
  const Communicator holders = communicator.split(holds ? 0 : 1, communicator.rank());
  std::vector<std::vector<std::uint64_t>> digests;
  ranks.attempt([&] {
    if (!holds) return;
    DataSave<T> data(path, holders, together, digests);
    for (const Slot<T>& slot : slots) data.save(slot);
    data.finish(slots);
  });
  ranks.agree();
  ranks.attempt([&] {
    if (!communicator.is_root()) return;
    sync_file(path);
    read_back(path, slots, digests, manifest);
  });
  ranks.agree();
  return manifest;
}

template Manifest save_state(const std::string&, const ParameterStore<float>&,
                             const CheckpointMeta&, const Communicator&);
template Manifest save_state(const std::string&, const ParameterStore<double>&,
                             const CheckpointMeta&, const Communicator&);

}  // namespace kokomoe::detail
