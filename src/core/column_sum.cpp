// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/column_sum.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"

namespace kokomoe {

template <class T>
void column_sum(const ExecutionSpace& space, Arena& scratch, const Matrix<const T>& a,
                const Matrix<const T>& b, const Vector<const T>& weight, T beta,
                const Vector<T>& out) {
  constexpr int tile = 128;
  const int rows = static_cast<int>(a.extent(0)), columns = static_cast<int>(a.extent(1));
  const bool product = b.extent(0) != 0, weighted = weight.extent(0) != 0;
  if (product) require_shape("column_sum", "b", b, a.extent(0), a.extent(1));
  if (out.extent(0) != a.extent(1)) fail_shape("column_sum", "out", 1, out.extent(0), 1, columns);
  const int tiles = (rows + tile - 1) / tile;
  ArenaScope scope(scratch);
  const Matrix<T> partial = scratch.matrix<T>(tiles, columns);
  for_each_row(
      KOKOMOE_LABEL("core::column_sum::tiles"), space, tiles, KOKKOS_LAMBDA(const Row& row) {
        const int i = row.index();
        const int begin = i * tile, end = begin + tile < rows ? begin + tile : rows;
        T* const sums = &partial(i, 0);
        row.each(columns, [&](const int c) { sums[c] = T(0); });
        for (int r = begin; r < end; ++r) {
          const T* const x = &a(r, 0);
          const T w = weighted ? weight(r) : T(1);
          if (product) {
            const T* const y = &b(r, 0);
            row.each(columns, [&](const int c) { sums[c] += w * x[c] * y[c]; });
          } else {
            row.each(columns, [&](const int c) { sums[c] += w * x[c]; });
          }
        }
      });
  Kokkos::parallel_for(
      KOKOMOE_LABEL("core::column_sum::total"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, columns), KOKKOS_LAMBDA(const int c) {
        T sum = 0;
        for (int i = 0; i < tiles; ++i) sum += partial(i, c);
        out(c) = beta == T(0) ? sum : beta * out(c) + sum;
      });
}

#define KOKOMOE_INSTANTIATE(T)                                                                   \
  template void column_sum<T>(const ExecutionSpace&, Arena&, const Matrix<const T>&,             \
                              const Matrix<const T>&, const Vector<const T>&, T,         \
                              const Vector<T>&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
