// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/segment_sums.hpp"

#include "core/register_tile.hpp"
#include "kokomoe/core/column_sum.hpp"
#include "kokomoe/core/error.hpp"

namespace kokomoe {

namespace {

/// The first segment that begins at `row` or behind it.
KOKKOS_INLINE_FUNCTION int segment_at(const Segments& segments, int row) {
  int low = 0, high = segments.count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (segments.starts(middle) < row)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/// One tile of exact sums, and whether all its parts were some.
template <int rows, int columns>
struct ExactTile {
  std::int64_t high[rows][columns];
  std::int64_t low[rows][columns];
  int parts = 0;
  int outside = 0;

  KOKKOS_INLINE_FUNCTION ExactTile() {
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < columns; ++j) high[i][j] = low[i][j] = 0;
  }
  template <class T>
  KOKKOS_INLINE_FUNCTION void add(const T (&sum)[rows][columns]) {
    int bad = 0;
    for (int i = 0; i < rows; ++i) {
#pragma omp simd reduction(+ : bad)
      for (int j = 0; j < columns; ++j) {
        const double x = static_cast<double>(sum[i][j]);
        exact_sum::add(x, high[i][j], low[i][j]);
        bad += exact_sum::is_part(x) ? 0 : 1;
      }
    }
    outside |= bad;
    if (++parts % exact_sum::parts_between_carries == 0) carry();
  }
  KOKKOS_INLINE_FUNCTION void carry() {
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < columns; ++j) exact_sum::carry(high[i][j], low[i][j]);
  }
};

/// Writes or adds one carried number.
KOKKOS_INLINE_FUNCTION void store(const exact_sum::Sums& out, int i, int j, std::int64_t high,
                                  std::int64_t low, bool accumulate) {
  if (accumulate) {
    high += out.high(i, j);
    low += out.low(i, j);
  }
  exact_sum::carry(high, low);
  out.high(i, j) = high;
  out.low(i, j) = low;
}

}  // namespace

template <class T>
void exact_product(const ExecutionSpace& space, Arena& scratch, const Matrix<const T>& a,
                   const Matrix<const T>& b, const Segments& segments, int first, bool accumulate,
                   const exact_sum::Sums& out) {
  require_shape("exact_product", "b", b, a.extent(0), b.extent(1));
  require_shape("exact_product", "out", out.high, a.extent(1), b.extent(1));
  constexpr int rows = detail::RegisterTile<T>::rows, columns = detail::RegisterTile<T>::columns;
  const int n = static_cast<int>(a.extent(0));
  const int m = static_cast<int>(a.extent(1)), w = static_cast<int>(b.extent(1));
  ArenaScope scope(scratch);
  const Vector<T> left = scratch.vector<T>(detail::packed_size<rows>(a.extent(0), a.extent(1)));
  const Vector<T> right = scratch.vector<T>(detail::packed_size<columns>(b.extent(0), b.extent(1)));
  detail::pack_columns<rows, T>(space, a, left);
  detail::pack_columns<columns, T>(space, b, right);
  const int down = (m + rows - 1) / rows, wide = (w + columns - 1) / columns;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("core::exact_product"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, static_cast<std::size_t>(down) * wide),
      KOKKOS_LAMBDA(const std::size_t unit) {
        const int i0 = static_cast<int>(unit % down), j0 = static_cast<int>(unit / down);
        const T* const x = left.data() + static_cast<std::size_t>(i0) * n * rows;
        const T* const y = right.data() + static_cast<std::size_t>(j0) * n * columns;
        ExactTile<rows, columns> tile;
        for (int s = segment_at(segments, first);
             s < segments.count && segments.starts(s) < first + n; ++s) {
          T sum[rows][columns];
          for (int i = 0; i < rows; ++i)
            for (int j = 0; j < columns; ++j) sum[i][j] = T(0);
          const int end = segments.starts(s + 1) - first;
          for (int t = segments.starts(s) - first; t < end; ++t) {
            const T* const u = x + static_cast<std::size_t>(t) * rows;
            const T* const v = y + static_cast<std::size_t>(t) * columns;
            KOKOMOE_UNROLL
            for (int i = 0; i < rows; ++i) {
#pragma omp simd
              for (int j = 0; j < columns; ++j) sum[i][j] += u[i] * v[j];
            }
          }
          tile.add(sum);
        }
        tile.carry();
        for (int i = 0; i < rows && i0 * rows + i < m; ++i)
          for (int j = 0; j < columns && j0 * columns + j < w; ++j)
            store(out, i0 * rows + i, j0 * columns + j, tile.high[i][j], tile.low[i][j],
                  accumulate);
        if (tile.outside != 0) Kokkos::atomic_add(&out.outside(0), std::int64_t(1));
      });
}

template <class T>
void exact_column_sum(const ExecutionSpace& space, Arena& scratch, const Matrix<const T>& a,
                      const Matrix<const T>& b, const Vector<const T>& weight,
                      const Segments& segments, std::span<const int> offsets, bool accumulate,
                      const exact_sum::Sums& out) {
  const int columns = static_cast<int>(a.extent(1)), first = offsets[0];
  const bool product = b.extent(0) != 0, weighted = weight.extent(0) != 0;
  const std::size_t groups = offsets.size() - 1;
  if (product) require_shape("exact_column_sum", "b", b, a.extent(0), a.extent(1));
  require_shape("exact_column_sum", "a", a, static_cast<std::size_t>(offsets[groups] - offsets[0]),
                a.extent(1));
  require_shape("exact_column_sum", "out", out.high, groups, a.extent(1));
  const int last = offsets[groups];
  ArenaScope scope(scratch);
  const Matrix<T> partial =
      scratch.matrix<T>(static_cast<std::size_t>(segments.count), a.extent(1));
  for_each_row(
      KOKOMOE_LABEL("core::exact_column_sum::segments"), space, segments.count,
      KOKKOS_LAMBDA(const Row& row) {
        const int s = row.index(), begin = segments.starts(s), end = segments.starts(s + 1);
        if (begin < first || begin >= last) return;
        T* const sums = &partial(s, 0);
        row.each(columns, [&](const int c) { sums[c] = T(0); });
        for (int t = begin - first; t < end - first; ++t) {
          const T* const x = &a(t, 0);
          const T w = weighted ? weight(t) : T(1);
          if (product) {
            const T* const y = &b(t, 0);
            row.each(columns, [&](const int c) { sums[c] += w * x[c] * y[c]; });
          } else {
            row.each(columns, [&](const int c) { sums[c] += w * x[c]; });
          }
        }
      });
  for (std::size_t g = 0; g < groups; ++g) {
    const int begin = offsets[g], end = offsets[g + 1];
    Kokkos::parallel_for(
        KOKOMOE_LABEL("core::exact_column_sum::total"),
        Kokkos::RangePolicy<ExecutionSpace>(space, 0, columns), KOKKOS_LAMBDA(const int c) {
          std::int64_t high = 0, low = 0;
          bool outside = false;
          for (int s = segment_at(segments, begin), parts = 1;
               s < segments.count && segments.starts(s) < end; ++s, ++parts) {
            const double x = static_cast<double>(partial(s, c));
            exact_sum::add(x, high, low);
            outside = outside || !exact_sum::is_part(x);
            if (parts % exact_sum::parts_between_carries == 0) exact_sum::carry(high, low);
          }
          exact_sum::carry(high, low);
          store(out, static_cast<int>(g), c, high, low, accumulate);
          if (outside) Kokkos::atomic_add(&out.outside(0), std::int64_t(1));
        });
  }
}

template <class T>
void exact_scatter_sum(const ExecutionSpace& space, const Matrix<const T>& a,
                       const Vector<const int>& offsets, const Vector<const int>& order,
                       const Vector<const std::uint32_t>& segment, bool accumulate,
                       const exact_sum::Sums& out) {
  constexpr int width = detail::RegisterTile<T>::columns;
  const int columns = static_cast<int>(a.extent(1));
  const int blocks = (columns + width - 1) / width;
  require_shape("exact_scatter_sum", "out", out.high, out.high.extent(0), a.extent(1));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("core::exact_scatter_sum"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0,
                                          out.high.extent(0) * static_cast<std::size_t>(blocks)),
      KOKKOS_LAMBDA(const std::size_t unit) {
        const int r = static_cast<int>(unit / static_cast<std::size_t>(blocks));
        const int begin = static_cast<int>(unit % static_cast<std::size_t>(blocks)) * width;
        const int count = begin + width < columns ? width : columns - begin;
        ExactTile<1, width> tile;
        const int end = offsets(r + 1);
        for (int i = offsets(r); i < end;) {
          const std::uint32_t own = segment(order(i));
          T sum[1][width];
          for (int j = 0; j < width; ++j) sum[0][j] = T(0);
          for (; i < end && segment(order(i)) == own; ++i) {
            const T* const x = &a(order(i), begin);
            for (int j = 0; j < count; ++j) sum[0][j] += x[j];
          }
          tile.add(sum);
        }
        tile.carry();
        for (int j = 0; j < count; ++j)
          store(out, r, begin + j, tile.high[0][j], tile.low[0][j], accumulate);
        if (tile.outside != 0) Kokkos::atomic_add(&out.outside(0), std::int64_t(1));
      });
}

template <class T>
void grid_column_sum(const ExecutionSpace& space, Arena& scratch, const Matrix<const T>& a,
                     const Segments& segments, const exact_sum::Grid& grid,
                     const Vector<double>& out) {
  const int columns = static_cast<int>(a.extent(1));
  ArenaScope scope(scratch);
  const Matrix<double> partial =
      scratch.matrix<double>(static_cast<std::size_t>(segments.count), a.extent(1));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("core::grid_column_sum"),
      Kokkos::RangePolicy<ExecutionSpace>(
          space, 0, static_cast<std::size_t>(segments.count) * static_cast<std::size_t>(columns)),
      KOKKOS_LAMBDA(const std::size_t i) {
        const int s = static_cast<int>(i / static_cast<std::size_t>(columns));
        const int c = static_cast<int>(i % static_cast<std::size_t>(columns));
        double sum = 0;
        for (int t = segments.starts(s); t < segments.starts(s + 1); ++t)
          sum += static_cast<double>(a(t, c));
        partial(s, c) = grid.round(sum);
      });
  column_sum<double>(space, scratch, partial, Matrix<const double>(), Vector<const double>(), 0.0,
                     out);
}

#define KOKOMOE_INSTANTIATE(T)                                                                     \
  template void exact_product<T>(const ExecutionSpace&, Arena&, const Matrix<const T>&,            \
                                 const Matrix<const T>&, const Segments&, int, bool,               \
                                 const exact_sum::Sums&);                                          \
  template void exact_column_sum<T>(const ExecutionSpace&, Arena&, const Matrix<const T>&,         \
                                    const Matrix<const T>&, const Vector<const T>&,                \
                                    const Segments&, std::span<const int>, bool,                   \
                                    const exact_sum::Sums&);                                       \
  template void exact_scatter_sum<T>(                                                              \
      const ExecutionSpace&, const Matrix<const T>&, const Vector<const int>&,                     \
      const Vector<const int>&, const Vector<const std::uint32_t>&, bool, const exact_sum::Sums&); \
  template void grid_column_sum<T>(const ExecutionSpace&, Arena&, const Matrix<const T>&,          \
                                   const Segments&, const exact_sum::Grid&,                        \
                                   const Vector<double>&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
