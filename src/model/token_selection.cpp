// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/model/token_selection.hpp"

#include "kokomoe/core/clear.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"

namespace kokomoe {

namespace {

/// Views of `tokens` for a selection of `rows`, to be filled.
struct Columns {
  Vector<int> ids, offsets, position;
  Vector<std::uint32_t> sequence_index;
};

Columns take_columns(Arena& arena, std::size_t rows, int sequences) {
  return {arena.vector<int>(rows), arena.vector<int>(static_cast<std::size_t>(sequences) + 1),
          arena.vector<int>(rows), arena.vector<std::uint32_t>(rows)};
}

PackedTokens as_tokens(const Columns& columns, int sequences, int max_length) {
  PackedTokens tokens;
  tokens.tokens = static_cast<int>(columns.ids.extent(0));
  tokens.sequences = sequences;
  tokens.max_length = max_length;
  tokens.ids = columns.ids;
  tokens.sequence_offsets = columns.offsets;
  tokens.sequence_index = columns.sequence_index;
  tokens.position = columns.position;
  return tokens;
}

}  // namespace

TokenSelection select_tokens(const StepContext& ctx, const Vector<const int>& rows) {
  const PackedTokens& all = ctx.tokens;
  const int selected = static_cast<int>(rows.extent(0)), sequences = all.sequences;
  const Columns columns = take_columns(*ctx.saved, rows.extent(0), sequences);
  const Vector<int> ids = columns.ids, offsets = columns.offsets, position = columns.position;
  const Vector<std::uint32_t> sequence_index = columns.sequence_index;
  const Vector<const int> all_ids = all.ids, all_offsets = all.sequence_offsets,
                          all_position = all.position;
  const Vector<const std::uint32_t> all_index = all.sequence_index;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("model::select_tokens"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, selected), KOKKOS_LAMBDA(const int i) {
        const int t = rows(i);
        ids(i) = all_ids(t);
        position(i) = all_position(t);
        sequence_index(i) = all_index(t);
      });
  Kokkos::parallel_for(
      KOKOMOE_LABEL("model::select_tokens::offsets"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, sequences + 1), KOKKOS_LAMBDA(const int b) {
        int low = 0, high = selected;  // the first row at or behind the sequence's beginning
        while (low < high) {
          const int middle = (low + high) / 2;
          if (rows(middle) < all_offsets(b))
            low = middle + 1;
          else
            high = middle;
        }
        offsets(b) = low;
      });
  TokenSelection selection{rows, as_tokens(columns, sequences, all.max_length)};
  selection.tokens.targets = selection.tokens.ids;
  return selection;
}

TokenSelection select_first_tokens(const StepContext& ctx) {
  const PackedTokens& all = ctx.tokens;
  const int sequences = all.sequences;
  const Columns columns = take_columns(*ctx.saved, static_cast<std::size_t>(sequences), sequences);
  const Vector<int> first = ctx.saved->vector<int>(static_cast<std::size_t>(sequences));
  const Vector<int> ids = columns.ids, offsets = columns.offsets, position = columns.position;
  const Vector<std::uint32_t> sequence_index = columns.sequence_index;
  const Vector<const int> all_ids = all.ids, all_offsets = all.sequence_offsets;
  const Vector<const std::uint32_t> all_index = all.sequence_index;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("model::select_first_tokens"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, sequences + 1), KOKKOS_LAMBDA(const int b) {
        offsets(b) = b;
        if (b == sequences) return;
        const int t = all_offsets(b);
        const bool empty = t == all_offsets(b + 1);
        first(b) = empty ? -1 : t;
        ids(b) = empty ? 0 : all_ids(t);
        position(b) = 0;
        sequence_index(b) = empty ? 0 : all_index(t);
      });
  return {first, as_tokens(columns, sequences, sequences > 0 ? 1 : 0)};
}

StepContext with_tokens(const StepContext& ctx, const PackedTokens& tokens) {
  StepContext other = ctx;
  other.tokens = tokens;
  return other;
}

template <class T>
void gather_rows(const ExecutionSpace& space, const Matrix<const T>& x,
                 const Vector<const int>& rows, const Matrix<T>& y) {
  require_shape("gather_rows", "y", y, rows.extent(0), x.extent(1));
  const int columns = static_cast<int>(x.extent(1));
  for_each_row(
      KOKOMOE_LABEL("model::gather_rows"), space, static_cast<int>(rows.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        const int t = rows(row.index());
        T* const to = &y(row.index(), 0);
        if (t < 0) {
          row.each(columns, [&](const int j) { to[j] = T(0); });
          return;
        }
        const T* const from = &x(t, 0);
        row.each(columns, [&](const int j) { to[j] = from[j]; });
      });
}

template <class T>
void scatter_rows(const ExecutionSpace& space, const Matrix<const T>& dy,
                  const Vector<const int>& rows, const Matrix<T>& dx) {
  require_shape("scatter_rows", "dy", dy, rows.extent(0), dx.extent(1));
  clear(space, dx);
  const int columns = static_cast<int>(dx.extent(1));
  for_each_row(
      KOKOMOE_LABEL("model::scatter_rows"), space, static_cast<int>(rows.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        const int t = rows(row.index());
        if (t < 0) return;
        const T* const from = &dy(row.index(), 0);
        T* const to = &dx(t, 0);
        row.each(columns, [&](const int j) { to[j] = from[j]; });
      });
}

#define KOKOMOE_INSTANTIATE(T)                                                 \
  template void gather_rows<T>(const ExecutionSpace&, const Matrix<const T>&,  \
                               const Vector<const int>&, const Matrix<T>&);    \
  template void scatter_rows<T>(const ExecutionSpace&, const Matrix<const T>&, \
                                const Vector<const int>&, const Matrix<T>&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
