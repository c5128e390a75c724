// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/kept_rows.hpp"

#include "kokomoe/core/row_kernels.hpp"

namespace kokomoe {

template <class T>
void KeptRows<T>::keep(const ExecutionSpace& space, const Matrix<T>& written,
                       bool round_written) const {
  if (!rounded_) return;
  const int columns = static_cast<int>(narrow_.extent(1));
  const Matrix<Bfloat16> kept = narrow_;
  for_each_row(
      KOKOMOE_LABEL("core::round_rows"), space, static_cast<int>(rows()),
      KOKKOS_LAMBDA(const Row& row) {
        T* const from = &written(row.index(), 0);
        Bfloat16* const to = &kept(row.index(), 0);
        row.each(columns, [&](const int j) { to[j].set(static_cast<float>(from[j])); });
        if (round_written)
          row.each(columns,
                   [&](const int j) { from[j] = static_cast<T>(static_cast<float>(to[j])); });
      });
}

template <class T>
Matrix<const T> KeptRows<T>::read(const ExecutionSpace& space, Arena& scratch) const {
  if (!rounded_) return wide_;
  const Matrix<T> result = scratch.matrix<T>(rows(), columns());
  const int columns = static_cast<int>(narrow_.extent(1));
  const Matrix<const Bfloat16> kept = narrow_;
  for_each_row(
      KOKOMOE_LABEL("core::widen_rows"), space, static_cast<int>(rows()),
      KOKKOS_LAMBDA(const Row& row) {
        const Bfloat16* const from = &kept(row.index(), 0);
        T* const to = &result(row.index(), 0);
        row.each(columns,
                 [&](const int j) { to[j] = static_cast<T>(static_cast<float>(from[j])); });
      });
  return result;
}

template class KeptRows<float>;
template class KeptRows<double>;

}  // namespace kokomoe
