// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "io/digest.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

/// How tensors are cut on their way between memory and file, so that no rank needs room for a
/// whole one.
namespace kokomoe::detail {

/// Rows [row, row + rows) of the first axis and, of a tensor with two axes or more, entries
/// [column, column + columns) of the second; all of the others. One run of memory.
struct Piece {
  std::size_t row = 0, rows = 0;
  std::size_t column = 0, columns = 0;
  std::size_t first = 0;     ///< of its elements, counted in the whole tensor
  std::size_t elements = 0;  ///< how many
};

/// Pieces of rows [row, row + rows), in the order of memory. None is larger than `bytes`, unless
/// one entry of the second axis is. Tensors without elements have none.
std::vector<Piece> cut_rows(const std::vector<std::size_t>& shape, std::size_t row,
                            std::size_t rows, std::size_t element_bytes, std::size_t bytes);

/// Digests a tensor has: one for each first-axis block, one in all for a plain vector (whose blocks
/// would be smaller than their digests).
std::size_t digest_blocks(const std::vector<std::size_t>& shape, bool expert);

/// XXH3-64 of consecutive blocks whose bytes come in pieces.
class BlockDigests {
 public:
  explicit BlockDigests(std::size_t block_bytes) : block_bytes_(block_bytes) {}
  void add(const void* data, std::size_t bytes);
  /// Of the blocks that are complete.
  const std::vector<std::uint64_t>& values() const { return values_; }

 private:
  std::size_t block_bytes_;
  std::size_t begun_ = 0;  ///< bytes that `stream_` has of a block that goes on in the next piece
  StreamDigest stream_;
  std::vector<std::uint64_t> values_;
};

}  // namespace kokomoe::detail
