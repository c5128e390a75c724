// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/error.hpp"
#include "kokomoe/io/checkpoint.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace kokomoe::detail {

inline constexpr std::int64_t checkpoint_format = 1;

/// A checkpoint's files are not what was written (InputError to everyone else).
class DamagedCheckpoint : public InputError {
 public:
  using InputError::InputError;
};

/// A dataset of state.h5 and where its bytes lie, so that damage can be placed without HDF5.
struct DatasetRecord {
  std::string name;  ///< "parameters/NAME", "digests/parameters/NAME"
  std::vector<std::size_t> shape;
  std::string dtype;  ///< "float32", "float64", "uint64"
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::uint64_t digest = 0;  ///< XXH3-64 of these bytes
};

struct Manifest {
  CheckpointMeta meta;
  std::uint64_t state_bytes = 0;
  std::uint64_t state_digest = 0;
  std::vector<DatasetRecord> datasets;
};

/// JSON whose last line is the XXH3 of all before it, so that no byte can change unseen.
std::string manifest_text(const Manifest& manifest);

/// Reverse of manifest_text. `path` stands in messages. Throws DamagedCheckpoint or InputError.
Manifest parse_manifest(const std::string& text, const std::string& path);

/// STEP/manifest.json as text.
std::string read_manifest_text(const std::string& step_folder);

/// Size and digest of STEP/state.h5 against the manifest. Throws DamagedCheckpoint that names the
/// datasets where the damage lies.
void verify_state(const std::string& step_folder, const Manifest& manifest);

/// True when manifest and state.h5 of a folder are what was written.
bool is_whole(const std::string& step_folder);

/// "(2, 3)"
std::string shape_text(const std::vector<std::size_t>& shape);

}  // namespace kokomoe::detail
