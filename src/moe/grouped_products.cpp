// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/grouped_products.hpp"

#include "kokomoe/core/column_sum.hpp"
#include "kokomoe/core/row_gemm.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/core/rows_of.hpp"
#include "kokomoe/moe/grouped_gemm.hpp"
#include "moe/grouped_teams.hpp"

namespace kokomoe {

namespace {

/// Rows of group g; row 0 is the first group's first.
struct Span {
  std::size_t begin, end;
  Span(std::span<const int> offsets, std::size_t g)
      : begin(static_cast<std::size_t>(offsets[g] - offsets[0])),
        end(static_cast<std::size_t>(offsets[g + 1] - offsets[0])) {}
};

/// Rows of the stacked tensor that belong to experts [first, end).
template <class T>
Span stacked_rows(const ParameterStore<T>& store, const ExpertGradients& to) {
  const auto& entry = store.entry(to.handle);
  const std::size_t rows = store.gradient(to.handle).extent(0);
  const int each = static_cast<int>(rows / entry.local_shape[0]);
  const int offsets[] = {0, each * to.first, each * to.end};
  return Span(offsets, 1);
}

template <class T>
Matrix<T> plain(const ParameterStore<T>& store, const ExpertGradients& to) {
  const Span rows = stacked_rows(store, to);
  return rows_of(store.gradient(to.handle), rows.begin, rows.end);
}

template <class T>
exact_sum::Sums limbs(const ParameterStore<T>& store, const ExpertGradients& to) {
  const Span rows = stacked_rows(store, to);
  return store.exact_gradient(to.handle).rows(rows.begin, rows.end);
}

}  // namespace

Segments segments_of_rows(const ExecutionSpace& space, Arena& arena,
                          const Vector<const int>& expert_of_row,
                          const Vector<const std::uint32_t>& sequence_of_row) {
  const int rows = static_cast<int>(sequence_of_row.extent(0));
  const bool experts = expert_of_row.extent(0) != 0;
  const Vector<int> starts = arena.vector<int>(static_cast<std::size_t>(rows) + 1);
  Kokkos::deep_copy(space, starts, rows);
  Kokkos::parallel_scan(
      KOKOMOE_LABEL("moe::segments"), Kokkos::RangePolicy<ExecutionSpace>(space, 0, rows),
      KOKKOS_LAMBDA(const int r, int& place, const bool final) {
        const bool starts_here = r == 0 || sequence_of_row(r) != sequence_of_row(r - 1) ||
                                 (experts && expert_of_row(r) != expert_of_row(r - 1));
        if (!starts_here) return;
        if (final) starts(place) = r;
        ++place;
      });
  return {starts, rows};
}

template <class T>
void multiply_groups(const ExecutionSpace& space, Arena& scratch, const RowArithmetic& how,
                     Transpose transpose_b, const Matrix<const T>& a, const Matrix<const T>& b,
                     const Matrix<T>& c, std::span<const int> offsets) {
  if (!how.layout_free) {
    grouped_gemm<T>(space, transpose_b, a, b, T(0), c, offsets);
    return;
  }
  const std::size_t groups = offsets.size() - 1, block = b.extent(0) / groups;
  for (std::size_t g = 0; g < groups; ++g) {
    const Span rows(offsets, g);
    row_gemm<T>(space, scratch, transpose_b, rows_of(a, rows.begin, rows.end),
                rows_of(b, g * block, (g + 1) * block), false, rows_of(c, rows.begin, rows.end));
  }
}

template <class T>
void add_weight_gradients(const ExecutionSpace& space, Arena& scratch, const RowArithmetic& how,
                          const Matrix<const T>& dy, const Matrix<const T>& x,
                          std::span<const int> offsets, const ParameterStore<T>& store,
                          const ExpertGradients& to) {
  if (!how.layout_free) {
    grouped_gemm_transposed<T>(space, dy, x, to.accumulate ? T(1) : T(0), plain(store, to),
                               offsets);
    return;
  }
  const exact_sum::Sums sums = limbs(store, to);
  const std::size_t groups = offsets.size() - 1, block = sums.high.extent(0) / groups;
  for (std::size_t g = 0; g < groups; ++g) {
    const Span rows(offsets, g);
    exact_product<T>(space, scratch, rows_of(dy, rows.begin, rows.end),
                     rows_of(x, rows.begin, rows.end), how.segments, offsets[g], to.accumulate,
                     sums.rows(g * block, (g + 1) * block));
  }
}

template <class T>
void add_bias_gradients(const ExecutionSpace& space, Arena& scratch, const RowArithmetic& how,
                        const Matrix<const T>& dy, const Vector<const T>& weight,
                        std::span<const int> offsets, const ParameterStore<T>& store,
                        const ExpertGradients& to) {
  if (how.layout_free) {
    exact_column_sum<T>(space, scratch, dy, Matrix<const T>(), weight, how.segments, offsets,
                        to.accumulate, limbs(store, to));
    return;
  }
  const Matrix<T> gradient = plain(store, to);
  const T beta = to.accumulate ? T(1) : T(0);
  if constexpr (KOKOMOE_TEAM_ROWS) {
    const Matrix<const T> weights(weight.data(), weight.extent(0), 1);
    detail::grouped_gemm_transposed_teams<T>(space, weights, dy, beta, gradient, offsets);
  } else {
    const std::size_t width = dy.extent(1);
    for (std::size_t g = 0; g + 1 < offsets.size(); ++g) {
      const Span rows(offsets, g);
      column_sum<T>(
          space, scratch, rows_of(dy, rows.begin, rows.end), Matrix<const T>(),
          rows.begin == rows.end ? Vector<const T>() : rows_of(weight, rows.begin, rows.end), beta,
          Vector<T>(gradient.data() + g * width, width));
    }
  }
}

#define KOKOMOE_INSTANTIATE(T)                                                                     \
  template void multiply_groups<T>(const ExecutionSpace&, Arena&, const RowArithmetic&, Transpose, \
                                   const Matrix<const T>&, const Matrix<const T>&,                 \
                                   const Matrix<T>&, std::span<const int>);                        \
  template void add_weight_gradients<T>(const ExecutionSpace&, Arena&, const RowArithmetic&,       \
                                        const Matrix<const T>&, const Matrix<const T>&,            \
                                        std::span<const int>, const ParameterStore<T>&,            \
                                        const ExpertGradients&);                                   \
  template void add_bias_gradients<T>(const ExecutionSpace&, Arena&, const RowArithmetic&,         \
                                      const Matrix<const T>&, const Vector<const T>&,              \
                                      std::span<const int>, const ParameterStore<T>&,              \
                                      const ExpertGradients&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
