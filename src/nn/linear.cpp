// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/nn/linear.hpp"

#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/parameters/products.hpp"

#include <cmath>

namespace kokomoe {

template <class T>
Linear<T>::Linear(int inputs, int outputs, bool bias, ParameterStore<T>& store,
                  const std::string& name, double scale)
    : store_(&store) {
  const auto in = static_cast<std::size_t>(inputs), out = static_cast<std::size_t>(outputs);
  const double deviation = scale / std::sqrt(static_cast<double>(inputs));
  weight_ = store.add({name + ".weight", {out, in}, Initializer::normal(deviation), true, false,
                       false, {"output", "input"}});
  if (bias)
    bias_ = store.add({name + ".bias", {out}, Initializer::constant(0), false, false, false,
                       {"output"}});
}

template <class T>
void Linear<T>::forward(const StepContext& ctx, const Matrix<const T>& x,
                        const Matrix<T>& y) const {
  multiply<T>(ctx, Transpose::yes, x, store_->value(weight_), false, y);
  if (!bias_.valid()) return;
  const Vector<const T> b = store_->value_vector(bias_);
  const int columns = static_cast<int>(y.extent(1));
  for_each_row(
      KOKOMOE_LABEL("nn::linear::bias"), ctx.space, static_cast<int>(y.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        T* const out = &y(row.index(), 0);
        row.each(columns, [&](const int j) { out[j] += b(j); });
      });
}

template <class T>
void Linear<T>::backward(const StepContext& ctx, const Matrix<const T>& x,
                         const Matrix<const T>& dy, const Matrix<T>& dx, bool accumulate) const {
  add_weight_gradient<T>(ctx, dy, x, *store_, weight_);
  if (bias_.valid()) add_column_gradient<T>(ctx, dy, Matrix<const T>(), *store_, bias_);
  multiply<T>(ctx, Transpose::no, dy, store_->value(weight_), accumulate, dx);
}

template class Linear<float>;
template class Linear<double>;

}  // namespace kokomoe
