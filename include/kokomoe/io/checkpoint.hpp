// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/communicator.hpp"
#include "kokomoe/parameters/parameter_store.hpp"

#include <cstdint>
#include <iosfwd>
#include <map>
#include <string>
#include <vector>

/// Checkpoints: folders `checkpoints/step_N/` with `state.h5` and `manifest.json`, and text files
/// `checkpoints/latest` and `checkpoints/best` that name one. See docs/checkpoints.md.
/// A build without HDF5 has the same functions; those that touch state.h5 throw InputError.
namespace kokomoe {

/// What a checkpoint keeps beside the tensors.
struct CheckpointMeta {
  std::int64_t step = 0;                         ///< updates done
  std::string deck;                              ///< effective deck, TOML
  std::map<std::string, std::int64_t> counters;  ///< tokens seen, ...
  std::map<std::string, double> numbers;         ///< best loss, ...; bitwise, NaN and inf too
  std::map<std::string, std::string> texts;      ///< any bytes: a tokenizer's model, ...
};

/// Writes `folder`/step_N (`folder` is RUN/checkpoints, made when missing): everything into
/// step_N.tmp, synced to disk, then one rename, then `best` (when asked) and `latest` by rename,
/// then pruning to the `keep` newest, never below two, never the best. A crash at any moment leaves
/// every earlier checkpoint whole. An existing step_N is replaced.
/// Collective over all ranks. The file holds whole tensors by global expert index, and equal states
/// give the same bytes whatever the layout. Ranks 0 to P - 1 of P expert ranks write their experts
/// together where HDF5 can and all of them see `folder`; else they send them to the root, piece by
/// piece. The root writes what is replicated, and reads everything back: a block that is not as its
/// rank wrote it fails the save. Throws Error on every rank when anything fails; the aside folder
/// is removed then.
template <class T>
void save_checkpoint(const std::string& folder, const ParameterStore<T>& store,
                     const CheckpointMeta& meta, const Communicator& communicator, bool best,
                     int keep);

/// Reads a step folder into an allocated store of the same names, types and shapes. The whole
/// file's digest is verified before HDF5 opens it, and nothing is written to the store before
/// every tensor is found right. `with_moments` false skips the optimizer's moments (evaluation).
/// Collective over all ranks, for any layout, whatever the one that saved: only the root reads
/// files, and sends each rank what it holds. Throws InputError on every rank, naming file and
/// dataset, and an older checkpoint that is whole when there is one.
template <class T>
CheckpointMeta load_checkpoint(const std::string& step_folder, ParameterStore<T>& store,
                               const Communicator& communicator, bool with_moments = true);

/// The step folder that a run folder (its latest), a `checkpoints` folder, a `latest` or `best`
/// file, or a step folder names. InputError when there is none, or when it cannot be read.
std::string resolve_checkpoint(const std::string& run_or_step);
/// The same for all ranks: the root looks, and need be the only one to see the folder. Collective.
std::string resolve_checkpoint(const std::string& run_or_step, const Communicator& communicator);

/// True when `run_folder`/checkpoints holds a complete step folder. InputError when it cannot be
/// read.
bool has_checkpoint(const std::string& run_folder);

/// The manifest's part of a checkpoint, verified against its own digest.
CheckpointMeta read_manifest(const std::string& step_folder);
/// The same for all ranks: the root reads, and need be the only one to see the folder. Collective.
CheckpointMeta read_manifest(const std::string& step_folder, const Communicator& communicator);

struct TensorInfo {
  std::string name;  ///< "parameters/NAME", "optimizer/m/NAME", "router_state/NAME"
  std::vector<std::size_t> shape;
  std::string dtype;   ///< "float32" or "float64"
  std::string digest;  ///< XXH3-64 of the tensor's bytes, 16 hexadecimal digits
  double rms = 0;      ///< root of the mean square of the elements
};

/// All tensors of a step folder in alphabetical order, every digest verified.
std::vector<TensorInfo> inspect_checkpoint(const std::string& step_folder);

struct TensorDifference {
  std::string name;
  bool equal = false;  ///< bitwise, shape and type too
  /// max |a - b|; NaN when the tensors cannot be compared element by element or hold NaN.
  double max_abs_difference = 0;
  std::string note;  ///< "only in the first", "shapes (2, 3) and (3, 2)", ... or ""
};

/// Every tensor that either folder has, in alphabetical order.
std::vector<TensorDifference> compare_checkpoints(const std::string& step_a,
                                                  const std::string& step_b);

/// Writes one tensor of a step folder as text: a line "# NAME shape=2,3 dtype=float32", then its
/// elements in row-major order, a line for each run along the last axis, separated by spaces, with
/// the 9 (float32) or 17 digits that give back every bit. `name` may leave "parameters/" out.
/// The tensor's digests are verified. InputError when there is no such tensor.
void export_tensor(const std::string& step_folder, const std::string& name, std::ostream& out);

namespace detail {

/// Called before each write, sync and rename of a save, on the rank that does it. For tests of
/// crashes: what it throws passes through, and nothing is tidied for types outside std::exception.
using CheckpointHook = void (*)(const char* operation, const std::string& path);
extern CheckpointHook checkpoint_hook;

/// How saves and loads move data. For tests: the file does not depend on it.
struct CheckpointTuning {
  std::size_t piece_bytes = std::size_t(64) << 20;  ///< memory that a rank takes at a time
  bool gather = false;  ///< the root writes all, even where ranks could write together
};
extern CheckpointTuning checkpoint_tuning;

}  // namespace detail
}  // namespace kokomoe
