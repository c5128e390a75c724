// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/picked_rows.hpp"

#include "kokomoe/core/row_kernels.hpp"

namespace kokomoe {

template <class T>
Matrix<const T> side_by_side(const ExecutionSpace& space, Arena& arena, const PickedRows<T>& rows) {
  const bool multiplied = rows.factor.extent(0) != 0;
  if (rows.index.data() == nullptr && !multiplied) return rows.from;
  const Matrix<T> to = arena.matrix<T>(rows.rows(), rows.columns());
  const int columns = static_cast<int>(rows.columns());
  for_each_row(
      KOKOMOE_LABEL("core::gather"), space, static_cast<int>(rows.rows()),
      KOKKOS_LAMBDA(const Row& row) {
        const T* const x = rows.row(row.index());
        T* const y = &to(row.index(), 0);
        const T* const factor = rows.factor.data();
        if (multiplied)
          row.each(columns, [&](const int j) { y[j] = factor[j] * x[j]; });
        else
          row.each(columns, [&](const int j) { y[j] = x[j]; });
      });
  return to;
}

#define KOKOMOE_INSTANTIATE(T) \
  template Matrix<const T> side_by_side<T>(const ExecutionSpace&, Arena&, const PickedRows<T>&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
