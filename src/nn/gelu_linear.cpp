// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/nn/gelu_linear.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/moe/activation.hpp"

namespace kokomoe {

template <class T>
GeluLinear<T>::GeluLinear(int inputs, int outputs, ParameterStore<T>& store,
                          const std::string& name)
    : linear_(inputs, outputs, true, store, name) {}

template <class T>
void GeluLinear<T>::forward(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y,
                            Saved& saved) const {
  const Region region(KOKOMOE_LABEL("nn::gelu_linear"));
  require_shape("GeluLinear::forward", "y", y, x.extent(0), y.extent(1));
  saved.x = x;
  saved.hidden = ctx.saved->template matrix<T>(x.extent(0), y.extent(1));
  linear_.forward(ctx, x, saved.hidden);
  const Matrix<const T> hidden = saved.hidden;
  const int columns = static_cast<int>(y.extent(1));
  for_each_row(
      KOKOMOE_LABEL("nn::gelu"), ctx.space, static_cast<int>(y.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        const T* const from = &hidden(row.index(), 0);
        T* const to = &y(row.index(), 0);
        row.each(columns, [&](const int j) { to[j] = Gelu::value(from[j]); });
      });
}

template <class T>
void GeluLinear<T>::backward(const StepContext& ctx, const Saved& saved, const Matrix<const T>& dy,
                             const Matrix<T>& dx) const {
  const Region region(KOKOMOE_LABEL("nn::gelu_linear_backward"));
  const Matrix<const T> hidden = saved.hidden;
  require_shape("GeluLinear::backward", "dy", dy, hidden.extent(0), hidden.extent(1));
  ArenaScope scope(*ctx.scratch);
  const Matrix<T> d_hidden = ctx.scratch->template matrix<T>(dy.extent(0), dy.extent(1));
  const int columns = static_cast<int>(dy.extent(1));
  for_each_row(
      KOKOMOE_LABEL("nn::gelu_backward"), ctx.space, static_cast<int>(dy.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        const T* const h = &hidden(row.index(), 0);
        const T* const from = &dy(row.index(), 0);
        T* const to = &d_hidden(row.index(), 0);
        row.each(columns, [&](const int j) { to[j] = from[j] * Gelu::derivative(h[j]); });
      });
  linear_.backward(ctx, saved.x, d_hidden, dx);
}

template class GeluLinear<float>;
template class GeluLinear<double>;

}  // namespace kokomoe
