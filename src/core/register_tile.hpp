// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/core/types.hpp"

#include <cstddef>

// Sums stay in registers only when the loop over them is gone. The host's part of what nvcc
// compiles is not run, and nvcc knows no pragma of GCC.
#if defined(__CUDA_ARCH__) || defined(__HIPCC__) || defined(__clang__)
#define KOKOMOE_UNROLL _Pragma("unroll")
#elif defined(__CUDACC__)
#define KOKOMOE_UNROLL
#else
#define KOKOMOE_UNROLL _Pragma("GCC unroll 16")
#endif

/// Tiles of a matrix product that one thread keeps in registers.
namespace kokomoe::detail {

/// On a host, 8 rows of two AVX-512 vectors; a device's thread has fewer registers.
template <class T>
struct RegisterTile {
#if KOKOMOE_TEAM_ROWS
  static constexpr int rows = 4;
  static constexpr int columns = 4;
#else
  static constexpr int rows = 8;
  static constexpr int columns = 128 / static_cast<int>(sizeof(T));
#endif
};

/// Panels of `width` columns of a row-major (rows, columns) matrix, one behind the other, row by
/// row; zeros fill the last.
template <int width, class T>
void pack_columns(const ExecutionSpace& space, const Matrix<const T>& from,
                  const Vector<T>& panels) {
  const int rows = static_cast<int>(from.extent(0)), columns = static_cast<int>(from.extent(1));
  for_each_row(
      KOKOMOE_LABEL("core::tile::pack_columns"), space, rows, KOKKOS_LAMBDA(const Row& row) {
        const T* const x = &from(row.index(), 0);
        const auto stride = static_cast<std::size_t>(rows) * width;
        T* const y = panels.data() + static_cast<std::size_t>(row.index()) * width;
        row.each((columns + width - 1) / width, [&](const int p) {
          T* const out = y + static_cast<std::size_t>(p) * stride;
          for (int j = 0; j < width; ++j)
            out[j] = p * width + j < columns ? x[p * width + j] : T(0);
        });
      });
}

/// The same of the transposed matrix: `from` is (columns, rows).
template <int width, class T>
void pack_rows(const ExecutionSpace& space, const Matrix<const T>& from, const Vector<T>& panels) {
  const int columns = static_cast<int>(from.extent(0)), rows = static_cast<int>(from.extent(1));
  for_each_row(
      KOKOMOE_LABEL("core::tile::pack_rows"), space, (columns + width - 1) / width * width,
      KOKKOS_LAMBDA(const Row& row) {
        const int c = row.index();
        T* const y = panels.data() + static_cast<std::size_t>(c / width) * rows * width + c % width;
        if (c < columns) {
          const T* const x = &from(c, 0);
          row.each(rows, [&](const int p) { y[static_cast<std::size_t>(p) * width] = x[p]; });
        } else {
          row.each(rows, [&](const int p) { y[static_cast<std::size_t>(p) * width] = T(0); });
        }
      });
}

/// Elements of all panels.
template <int width>
std::size_t packed_size(std::size_t rows, std::size_t columns) {
  return rows * ((columns + width - 1) / width * width);
}

}  // namespace kokomoe::detail
