// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/checkpoint_folders.hpp"
#include "io/state_file.hpp"
#include "io/store_slots.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/parallel/agree.hpp"

#include <memory>
#include <set>

namespace kokomoe {

namespace {

[[noreturn]] void refuse(const std::string& path, const std::string& name, const std::string& why) {
  throw InputError(path + ": error: /" + name + ": " + why);
}

/// Names, types and shapes of all tensors, before any is read.
template <class T>
void check_headers(const detail::StateReader& reader, const std::vector<detail::Slot<T>>& slots,
                   bool with_moments) {
  const char* const dtype = detail::dtype_name<T>();
  const std::vector<std::string> found = reader.names();
  const std::set<std::string> names(found.begin(), found.end());
  std::set<std::string> wanted;
  for (const detail::Slot<T>& slot : slots) {
    wanted.insert(slot.name);
    if (names.count(slot.name) == 0) {
      const std::string near = nearest_name(slot.name, names);
      refuse(reader.path(), slot.name,
             "is not in the file, but the deck's model has it" +
                 (near.empty() ? "" : "; the file has /" + near));
    }
    const detail::TensorHeader header = reader.header(slot.name);
    if (header.dtype != dtype)
      refuse(reader.path(), slot.name, "is " + header.dtype + ", but the model is " + dtype);
    if (header.shape != slot.spec->shape)
      refuse(reader.path(), slot.name,
             "has shape " + detail::shape_text(header.shape) + ", but the deck's model has " +
                 detail::shape_text(slot.spec->shape));
  }
  for (const std::string& name : found)
    if (wanted.count(name) == 0 && (with_moments || !name.starts_with("optimizer/")))
      refuse(reader.path(), name, "is in the file, but the deck's model has no such tensor");
}

/// A step folder of which every byte has been found right, for a model that it fits.
template <class T>
std::unique_ptr<detail::StateReader> open_verified(const std::string& step_folder,
                                                   const detail::Manifest& manifest,
                                                   const std::vector<detail::Slot<T>>& slots,
                                                   bool with_moments) {
  detail::verify_state(step_folder, manifest);
  auto reader = std::make_unique<detail::StateReader>(step_folder + "/state.h5");
  if (reader->step() != manifest.meta.step)
    throw detail::DamagedCheckpoint(reader->path() + ": error: is of step " +
                                    std::to_string(reader->step()) + ", its manifest of step " +
                                    std::to_string(manifest.meta.step));
  check_headers(*reader, slots, with_moments);
  for (const detail::Slot<T>& slot : slots) reader->verify(slot.name);
  return reader;
}

/// Hands the file's tensors, piece by piece, to the ranks that hold them.
template <class T>
class Delivery {
 public:
  /// Collective. `reader` is the root's alone.
  Delivery(const detail::StateReader* reader, const ParameterStore<T>& store,
           const Communicator& communicator)
      : reader_(reader),
        communicator_(communicator),
        errors_(communicator),
        expert_rank_(store.expert_rank()),
        expert_ranks_(store.expert_ranks()),
        replicas_(communicator.split(expert_rank_, communicator.rank())) {}

  /// Collective: one tensor.
  void load(const detail::Slot<T>& slot) {
    const std::vector<std::size_t>& shape = slot.spec->shape;
    const std::size_t limit = detail::checkpoint_tuning.piece_bytes;
    if (!slot.sharded) {
      for (const detail::Piece& piece : detail::cut_rows(shape, 0, shape[0], sizeof(T), limit)) {
        fetch(slot, piece);
        communicator_.broadcast(buffer_.data(), buffer_.size());
        store(slot, piece);
      }
    } else {
      for (int rank = 0; rank < expert_ranks_; ++rank) {
        const ExpertRange rows = detail::rows_held(slot, rank, expert_ranks_);
        for (const detail::Piece& piece :
             detail::cut_rows(shape, static_cast<std::size_t>(rows.begin),
                              static_cast<std::size_t>(rows.size()), sizeof(T), limit))
          pass(slot, rank, piece);
      }
    }
    errors_.agree();
  }

 private:
  /// The root's buffer gets a piece of the file; everyone's has its size.
  void fetch(const detail::Slot<T>& slot, const detail::Piece& piece) {
    buffer_.resize(piece.elements * sizeof(T));
    errors_.attempt([&] {
      if (reader_ != nullptr) reader_->read(slot.name, piece, buffer_);
    });
  }

  /// A piece to expert rank `rank` of the first group, and from there to its replicas.
  void pass(const detail::Slot<T>& slot, int rank, const detail::Piece& piece) {
    const bool root = communicator_.is_root();
    if (!root && expert_rank_ != rank) return;
    fetch(slot, piece);
    if (rank != 0 && root) communicator_.send(buffer_.data(), buffer_.size(), rank);
    if (rank != 0 && communicator_.rank() == rank)
      communicator_.receive(buffer_.data(), buffer_.size(), 0);
    if (expert_rank_ != rank) return;
    replicas_.broadcast(buffer_.data(), buffer_.size());
    store(slot, piece);
  }

  void store(const detail::Slot<T>& slot, const detail::Piece& piece) {
    errors_.attempt([&] {
      std::size_t row_elements = 1;
      for (std::size_t i = 1; i < slot.spec->shape.size(); ++i) row_elements *= slot.spec->shape[i];
      const std::size_t first = piece.first - slot.row * row_elements;
      const Kokkos::View<const T*, Kokkos::LayoutRight, Kokkos::HostSpace> host(
          reinterpret_cast<const T*>(buffer_.data()), piece.elements);
      Kokkos::deep_copy(Kokkos::subview(slot.values, Kokkos::pair<std::size_t, std::size_t>(
                                                         first, first + piece.elements)),
                        host);
    });
  }

  const detail::StateReader* reader_;
  const Communicator& communicator_;
  detail::Together errors_;
  int expert_rank_;
  int expert_ranks_;
  Communicator replicas_;
  std::vector<std::byte> buffer_;
};

}  // namespace

template <class T>
CheckpointMeta load_checkpoint(const std::string& step_folder, ParameterStore<T>& store,
                               const Communicator& communicator, bool with_moments) {
  const Region region(KOKOMOE_LABEL("io::load_checkpoint"));
  detail::require_layout("load_checkpoint", store, communicator);
  const std::string step = detail::without_slash(step_folder);
  const std::vector<detail::Slot<T>> slots = detail::slots_of(store, with_moments);
  std::string text;
  std::unique_ptr<detail::StateReader> reader;
  // Twice through the file, so that the store stays as it is unless all of it is right, and no
  // second copy of the model is held.
  run_on_root(communicator, [&] {
    detail::with_alternative(step, [&] {
      text = detail::read_manifest_text(step);
      reader = open_verified(step, detail::parse_manifest(text, step + "/manifest.json"), slots,
                             with_moments);
    });
  });
  text = communicator.broadcast(text);
  Delivery<T> delivery(reader.get(), store, communicator);
  for (const detail::Slot<T>& slot : slots) delivery.load(slot);
  const ExecutionSpace space;
  store.round_values(space);
  space.fence(KOKOMOE_LABEL("io::load_checkpoint"));
  return detail::parse_manifest(text, step + "/manifest.json").meta;
}

template CheckpointMeta load_checkpoint(const std::string&, ParameterStore<float>&,
                                        const Communicator&, bool);
template CheckpointMeta load_checkpoint(const std::string&, ParameterStore<double>&,
                                        const Communicator&, bool);

CheckpointMeta read_manifest(const std::string& step_folder) {
  const std::string step = detail::without_slash(step_folder);
  CheckpointMeta meta;
  detail::with_alternative(step, [&] {
    meta = detail::parse_manifest(detail::read_manifest_text(step), step + "/manifest.json").meta;
  });
  return meta;
}

}  // namespace kokomoe
