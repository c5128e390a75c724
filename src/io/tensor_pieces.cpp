// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/tensor_pieces.hpp"

#include <algorithm>

namespace kokomoe::detail {

std::vector<Piece> cut_rows(const std::vector<std::size_t>& shape, std::size_t row,
                            std::size_t rows, std::size_t element_bytes, std::size_t bytes) {
  const std::size_t columns = shape.size() > 1 ? shape[1] : 1;
  std::size_t inner = 1;
  for (std::size_t i = 2; i < shape.size(); ++i) inner *= shape[i];
  std::vector<Piece> pieces;
  const std::size_t row_elements = columns * inner;
  if (row_elements == 0) return pieces;
  const std::size_t limit = std::max<std::size_t>(1, bytes / element_bytes);
  const std::size_t row_step = std::max<std::size_t>(1, limit / row_elements);
  const std::size_t column_step =
      row_elements <= limit ? columns : std::max<std::size_t>(1, limit / inner);
  for (std::size_t r = row; r < row + rows; r += row_step) {
    for (std::size_t c = 0; c < columns; c += column_step) {
      Piece piece;
      piece.row = r;
      piece.rows = std::min(row_step, row + rows - r);
      piece.column = c;
      piece.columns = std::min(column_step, columns - c);
      piece.first = r * row_elements + c * inner;
      piece.elements = piece.rows * piece.columns * inner;
      pieces.push_back(piece);
    }
  }
  return pieces;
}

std::size_t digest_blocks(const std::vector<std::size_t>& shape, bool expert) {
  for (const std::size_t extent : shape)
    if (extent == 0) return 0;
  return shape.size() == 1 && !expert ? 1 : shape[0];
}

void BlockDigests::add(const void* data, std::size_t bytes) {
  const auto* from = static_cast<const unsigned char*>(data);
  while (bytes > 0) {
    const std::size_t count = std::min(bytes, block_bytes_ - begun_);
    if (count == block_bytes_) {
      values_.push_back(xxh3(from, count));
    } else {
      stream_.add(from, count);
      begun_ += count;
      if (begun_ == block_bytes_) {
        values_.push_back(stream_.value());
        stream_.reset();
        begun_ = 0;
      }
    }
    from += count;
    bytes -= count;
  }
}

}  // namespace kokomoe::detail
