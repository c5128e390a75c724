// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/types.hpp"

#include <cstddef>

namespace kokomoe {

/// Rows [begin, end) of a row-major matrix, as one; of a view without memory, that view.
template <class T>
Matrix<T> rows_of(const Matrix<T>& matrix, std::size_t begin, std::size_t end) {
  if (matrix.data() == nullptr) return matrix;
  return Matrix<T>(matrix.data() + begin * matrix.extent(1), end - begin, matrix.extent(1));
}

template <class T>
Vector<T> rows_of(const Vector<T>& vector, std::size_t begin, std::size_t end) {
  if (vector.data() == nullptr || vector.extent(0) == 0) return vector;
  return Vector<T>(vector.data() + begin, end - begin);
}

}  // namespace kokomoe
