// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/router.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/parameters/products.hpp"

#include <cmath>
#include <utility>

namespace kokomoe {

template <class T>
Router<T>::Router(RouterPlace place, ParameterStore<T>& store, int rows)
    : place_(std::move(place)), store_(&store) {
  if (rows == 0) return;
  const auto d = static_cast<std::size_t>(place_.d_model);
  weight_ = store.add({place_.name + ".weight",
                       {static_cast<std::size_t>(rows), d},
                       Initializer::normal(1 / std::sqrt(static_cast<double>(d))),
                       true,
                       false,
                       false,
                       {"logit", "channel"}});
}

template <class T>
Matrix<T> Router<T>::project(const StepContext& ctx, const Matrix<const T>& x) const {
  const Region region(KOKOMOE_LABEL("moe::router::project"));
  require_shape("Router::project", "x", x, x.extent(0), static_cast<std::size_t>(place_.d_model));
  const Matrix<T> z =
      ctx.saved->template matrix<T>(x.extent(0), static_cast<std::size_t>(logit_columns()));
  multiply<T>(ctx, Transpose::yes, x, store_->value(weight_), false, z);
  return z;
}

template <class T>
void Router<T>::project_backward(const StepContext& ctx, const Matrix<const T>& x,
                                 const Matrix<const T>& d_z, const Matrix<T>& d_x) const {
  const Region region(KOKOMOE_LABEL("moe::router::project_backward"));
  add_weight_gradient<T>(ctx, d_z, x, *store_, weight_);
  multiply<T>(ctx, Transpose::no, d_z, store_->value(weight_), true, d_x);
}

template class Router<float>;
template class Router<double>;

}  // namespace kokomoe
