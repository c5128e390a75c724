// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/row_gemm.hpp"

#include "core/register_tile.hpp"
#include "kokomoe/core/error.hpp"

#include <string>

namespace kokomoe {

namespace {

/// Rows that a thread takes through one panel, which so stays in its cache.
constexpr int block_rows = 64;

/// sum = a b over k in ascending order, one multiply-add for each element and k. Every tile is a
/// full one, whatever part of it is wanted, so all elements go through the same instructions.
template <class T, int rows, int columns>
KOKKOS_INLINE_FUNCTION void multiply_tile(const T* const (&a)[rows], const T* panel, int k,
                                          T (&sum)[rows][columns]) {
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < columns; ++j) sum[i][j] = T(0);
  for (int p = 0; p < k; ++p) {
    const T* const b = panel + static_cast<std::size_t>(p) * columns;
    KOKOMOE_UNROLL
    for (int i = 0; i < rows; ++i) {
      const T x = a[i][p];
#pragma omp simd
      for (int j = 0; j < columns; ++j) sum[i][j] += x * b[j];
    }
  }
}

std::string shape(std::size_t rows, std::size_t columns) {
  return "(" + std::to_string(rows) + ", " + std::to_string(columns) + ")";
}

template <class T>
void multiply_panels(const ExecutionSpace& space, const Matrix<const T>& a,
                     const Vector<const T>& panels, bool accumulate, const Matrix<T>& c) {
  constexpr int rows = detail::RegisterTile<T>::rows, columns = detail::RegisterTile<T>::columns;
  const int m = static_cast<int>(a.extent(0)), k = static_cast<int>(a.extent(1));
  const int n = static_cast<int>(c.extent(1));
  const int blocks = (m + block_rows - 1) / block_rows, wide = (n + columns - 1) / columns;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("core::row_gemm"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, static_cast<std::size_t>(blocks) * wide),
      KOKKOS_LAMBDA(const std::size_t unit) {
        const int block = static_cast<int>(unit % blocks), panel = static_cast<int>(unit / blocks);
        const T* const b = panels.data() + static_cast<std::size_t>(panel) * k * columns;
        const int end = (block + 1) * block_rows < m ? (block + 1) * block_rows : m;
        const int width = (panel + 1) * columns < n ? columns : n - panel * columns;
        for (int i = block * block_rows; i < end; i += rows) {
          const T* x[rows];
          // Behind the last row: the last once more, whose result is not stored.
          for (int r = 0; r < rows; ++r) x[r] = &a(i + r < m ? i + r : m - 1, 0);
          T sum[rows][columns];
          multiply_tile<T, rows, columns>(x, b, k, sum);
          for (int r = 0; r < rows && i + r < end; ++r) {
            T* const y = &c(i + r, panel * columns);
            if (accumulate)
              for (int j = 0; j < width; ++j) y[j] += sum[r][j];
            else
              for (int j = 0; j < width; ++j) y[j] = sum[r][j];
          }
        }
      });
}

}  // namespace

template <class T>
void row_gemm(const ExecutionSpace& space, Arena& scratch, Transpose transpose_b,
              const Matrix<const T>& a, const Matrix<const T>& b, bool accumulate,
              const Matrix<T>& c) {
  const bool transposed = transpose_b == Transpose::yes;
  const std::size_t m = a.extent(0), k = a.extent(1);
  const std::size_t kb = b.extent(transposed ? 1 : 0), n = b.extent(transposed ? 0 : 1);
  if (k != kb || c.extent(0) != m || c.extent(1) != n)
    fail("row_gemm", "A is " + shape(m, k) + ", op(B) is " + shape(kb, n) + ", C is " +
                         shape(c.extent(0), c.extent(1)));
  if (m == 0 || n == 0) return;
  constexpr int columns = detail::RegisterTile<T>::columns;
  ArenaScope scope(scratch);
  const Vector<T> panels = scratch.vector<T>(detail::packed_size<columns>(k, n));
  if (transposed)
    detail::pack_rows<columns, T>(space, b, panels);
  else
    detail::pack_columns<columns, T>(space, b, panels);
  multiply_panels<T>(space, a, panels, accumulate, c);
}

#define KOKOMOE_INSTANTIATE(T)                                                                \
  template void row_gemm<T>(const ExecutionSpace&, Arena&, Transpose, const Matrix<const T>&, \
                            const Matrix<const T>&, bool, const Matrix<T>&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
