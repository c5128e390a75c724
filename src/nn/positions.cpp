// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/nn/positions.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"

#include <string>

namespace kokomoe {

namespace {

template <class T>
void fill_table(const ExecutionSpace& space, const Matrix<T>& table) {
  const int d = static_cast<int>(table.extent(1));
  for_each_row(
      KOKOMOE_LABEL("nn::positions::table"), space, static_cast<int>(table.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        const int p = row.index();
        row.each(d, [&](const int j) {
          const double angle = p * Kokkos::pow(10000.0, -static_cast<double>(j / 2 * 2) / d);
          table(p, j) = static_cast<T>(j % 2 == 0 ? Kokkos::sin(angle) : Kokkos::cos(angle));
        });
      });
}

}  // namespace

template <class T>
SinusoidalPositions<T>::SinusoidalPositions(const ExecutionSpace& space, int positions, int d_model)
    : table_("kokomoe::nn::positions::table", static_cast<std::size_t>(positions),
             static_cast<std::size_t>(d_model)) {
  fill_table(space, table_);
  space.fence(KOKOMOE_LABEL("nn::positions::table"));
}

template <class T>
void SinusoidalPositions<T>::add(const StepContext& ctx, const Matrix<T>& x) const {
  require_shape("SinusoidalPositions", "x", x, x.extent(0), table_.extent(1));
  if (static_cast<std::size_t>(ctx.tokens.max_length) > table_.extent(0))
    fail("SinusoidalPositions", "a sequence of " + std::to_string(ctx.tokens.max_length) +
                                    " tokens exceeds the " + std::to_string(table_.extent(0)) +
                                    " positions");
  const Matrix<const T> table = table_;
  const Vector<const int> position = ctx.tokens.position;
  const int columns = static_cast<int>(x.extent(1));
  for_each_row(
      KOKOMOE_LABEL("nn::positions"), ctx.space, static_cast<int>(x.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        const T* const from = &table(position(row.index()), 0);
        T* const to = &x(row.index(), 0);
        row.each(columns, [&](const int j) { to[j] += from[j]; });
      });
}

template <class T>
void scale_rows(const ExecutionSpace& space, double factor, const Matrix<T>& x) {
  const int columns = static_cast<int>(x.extent(1));
  const T by = static_cast<T>(factor);
  for_each_row(
      KOKOMOE_LABEL("nn::scale"), space, static_cast<int>(x.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        T* const to = &x(row.index(), 0);
        row.each(columns, [&](const int j) { to[j] *= by; });
      });
}

template class SinusoidalPositions<float>;
template class SinusoidalPositions<double>;
template void scale_rows<float>(const ExecutionSpace&, double, const Matrix<float>&);
template void scale_rows<double>(const ExecutionSpace&, double, const Matrix<double>&);

}  // namespace kokomoe
