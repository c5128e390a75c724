// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace kokomoe::fuzz {

struct Built {
  std::size_t piece_bytes = 0;     ///< how much a reader should take at a time
  std::vector<std::string> names;  ///< of datasets, wherever they lie
};

/// Writes the HDF5 file that an input stands for: always well formed, and mostly not what a
/// checkpoint looks like. `outside` is where links and external storage lead. `raw` flips bytes of
/// the file at last, by the input's own.
Built build_state(const std::string& path, const std::string& outside, const std::uint8_t* data,
                  std::size_t size, bool raw);

/// The file outside: with everything in it that a reader looks for.
void build_outside(const std::string& path);

}  // namespace kokomoe::fuzz
