// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/arena.hpp"
#include "kokomoe/core/rows_of.hpp"

namespace kokomoe {

/// Rows of a matrix in an order of their own, repeated or left out as one likes: row r is row
/// index(r) of `from`. They are copied only by those who need them side by side.
template <class T>
struct PickedRows {
  Matrix<const T> from;
  Vector<const int> index;   ///< (rows); empty: all rows of `from` as they lie
  Vector<const T> factor{};  ///< (columns) what multiplies each; empty: nothing

  PickedRows() = default;
  PickedRows(const Matrix<const T>& all) : from(all) {}  // NOLINT: a matrix is its own rows
  PickedRows(const Matrix<T>& all) : from(all) {}        // NOLINT
  PickedRows(const Matrix<const T>& x, const Vector<const int>& picked) : from(x), index(picked) {}

  std::size_t rows() const { return index.data() == nullptr ? from.extent(0) : index.extent(0); }
  std::size_t columns() const { return from.extent(1); }

  /// Row r before the factor.
  KOKKOS_INLINE_FUNCTION const T* row(int r) const {
    return &from(index.data() == nullptr ? r : index(r), 0);
  }

  /// Rows [begin, end).
  PickedRows part(std::size_t begin, std::size_t end) const {
    PickedRows some = *this;
    if (index.data() == nullptr)
      some.from = rows_of(from, begin, end);
    else
      some.index = Vector<const int>(index.data() + begin, end - begin);
    return some;
  }
};

/// The rows side by side, multiplied: `from` itself when they lie so, else a copy from `arena`. T:
/// float, double.
template <class T>
Matrix<const T> side_by_side(const ExecutionSpace& space, Arena& arena, const PickedRows<T>& rows);

}  // namespace kokomoe
