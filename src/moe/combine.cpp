// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/combine.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"

namespace kokomoe {

template <class T>
void gather_rows(const ExecutionSpace& space, const DispatchPlan& plan, const Matrix<const T>& x,
                 const Matrix<T>& rows) {
  const int columns = static_cast<int>(x.extent(1));
  require_shape("gather_rows", "rows", rows, static_cast<std::size_t>(plan.rows()), x.extent(1));
  const Vector<const int> token_of_row = plan.token_of_row;
  for_each_row(
      KOKOMOE_LABEL("moe::dispatch::gather"), space, plan.rows(), KOKKOS_LAMBDA(const Row& row) {
        const T* const from = &x(token_of_row(row.index()), 0);
        T* const to = &rows(row.index(), 0);
        row.each(columns, [&](const int j) { to[j] = from[j]; });
      });
}

template <class T>
void combine_rows(const ExecutionSpace& space, const DispatchPlan& plan,
                  const Matrix<const T>& rows, const Vector<const T>& weight, const Matrix<T>& y,
                  const Vector<const T>& gain, const Matrix<T>& scaled) {
  const int columns = static_cast<int>(y.extent(1));
  require_shape("combine_rows", "rows", rows, static_cast<std::size_t>(plan.rows()), y.extent(1));
  require_shape("combine_rows", "y", y, static_cast<std::size_t>(plan.tokens), y.extent(1));
  const int k = plan.slots_per_token;
  const bool weighted = weight.extent(0) != 0, gained = gain.extent(0) != 0;
  const bool apart = scaled.extent(0) != 0;
  if (gained && gain.extent(0) != y.extent(1))
    fail_shape("combine_rows", "gain", 1, gain.extent(0), 1, y.extent(1));
  if (apart) require_shape("combine_rows", "scaled", scaled, y.extent(0), y.extent(1));
  const Vector<const int> row_of_slot = plan.row_of_slot, token_offsets = plan.token_offsets,
                          token_slots = plan.token_slots;
  for_each_row(
      KOKOMOE_LABEL("moe::combine"), space, plan.tokens, KOKKOS_LAMBDA(const Row& row) {
        const int t = row.index();
        T* const to = &y(t, 0);
        const int begin = k > 0 ? t * k : token_offsets(t);
        const int end = k > 0 ? begin + k : token_offsets(t + 1);
        bool first = true;
        for (int i = begin; i < end; ++i) {
          const int slot = k > 0 ? i : token_slots(i);
          const int r = row_of_slot(slot);
          if (r < 0) continue;
          const T w = weighted ? weight(slot) : T(1);
          const T* const from = &rows(r, 0);
          if (first)
            row.each(columns, [&](const int j) { to[j] = w * from[j]; });
          else
            row.each(columns, [&](const int j) { to[j] += w * from[j]; });
          first = false;
        }
        if (first) row.each(columns, [&](const int j) { to[j] = T(0); });
        if (!gained) return;
        T* const also = apart ? &scaled(t, 0) : to;
        const T* const factor = gain.data();
        row.each(columns, [&](const int j) { also[j] = factor[j] * to[j]; });
      });
}

template <class T>
void slots_to_rows(const ExecutionSpace& space, const DispatchPlan& plan,
                   const Vector<const T>& by_slot, const Vector<T>& by_row) {
  const Vector<const int> slot_of_row = plan.slot_of_row;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::combine::slots_to_rows"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, plan.rows()),
      KOKKOS_LAMBDA(const int r) { by_row(r) = by_slot(slot_of_row(r)); });
}

template <class T>
void rows_to_slots(const ExecutionSpace& space, const DispatchPlan& plan,
                   const Vector<const T>& by_row, const Vector<T>& by_slot) {
  const Vector<const int> row_of_slot = plan.row_of_slot;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::combine::rows_to_slots"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, row_of_slot.extent(0)),
      KOKKOS_LAMBDA(const int n) {
        by_slot(n) = row_of_slot(n) < 0 ? T(0) : by_row(row_of_slot(n));
      });
}

#define KOKOMOE_INSTANTIATE(T)                                                                     \
  template void gather_rows<T>(const ExecutionSpace&, const DispatchPlan&, const Matrix<const T>&, \
                               const Matrix<T>&);                                                  \
  template void combine_rows<T>(const ExecutionSpace&, const DispatchPlan&,                        \
                                const Matrix<const T>&, const Vector<const T>&, const Matrix<T>&,  \
                                const Vector<const T>&, const Matrix<T>&);                         \
  template void slots_to_rows<T>(const ExecutionSpace&, const DispatchPlan&,                       \
                                 const Vector<const T>&, const Vector<T>&);                        \
  template void rows_to_slots<T>(const ExecutionSpace&, const DispatchPlan&,                       \
                                 const Vector<const T>&, const Vector<T>&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
