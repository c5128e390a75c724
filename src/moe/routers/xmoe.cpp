// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/xmoe.hpp"

#include "kokomoe/core/column_sum.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/gemm.hpp"
#include "kokomoe/core/row_kernels.hpp"

#include <algorithm>
#include <cmath>

namespace kokomoe {

namespace {

constexpr double least_norm = 1e-6;
constexpr double largest_factor = 100;

/// min(exp(log t), 100).
template <class T>
KOKKOS_INLINE_FUNCTION T factor_of(const Vector<const T>& log_temperature) {
  const T t = Kokkos::exp(log_temperature(0));
  return t > T(largest_factor) ? T(largest_factor) : t;
}

template <class T>
KOKKOS_INLINE_FUNCTION T row_norm(const Row& row, int columns, const T* x) {
  return Kokkos::sqrt(row.sum<T>(columns, [&](const int j) { return x[j] * x[j]; }));
}

/// unit(i, :) = x(i, :) / max(|x(i, :)|, 1e-6).
template <class T>
void normalize(const ExecutionSpace& space, const Matrix<const T>& x, const Matrix<T>& unit) {
  const int columns = static_cast<int>(x.extent(1));
  for_each_row(
      KOKOMOE_LABEL("moe::router::xmoe_normalize"), space, static_cast<int>(x.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        const T* const from = &x(row.index(), 0);
        T* const to = &unit(row.index(), 0);
        const T norm = row_norm(row, columns, from);
        const T divisor = norm < T(least_norm) ? T(least_norm) : norm;
        row.each(columns, [&](const int j) { to[j] = from[j] / divisor; });
      });
}

/// d_unit -> d_x = beta d_x + its gradient. d_x may be d_unit when beta is 0.
template <class T>
void normalize_backward(const ExecutionSpace& space, const Matrix<const T>& x,
                        const Matrix<const T>& unit, const Matrix<const T>& d_unit, T beta,
                        const Matrix<T>& d_x) {
  const int columns = static_cast<int>(x.extent(1));
  for_each_row(
      KOKOMOE_LABEL("moe::router::xmoe_normalize_backward"), space,
      static_cast<int>(x.extent(0)), KOKKOS_LAMBDA(const Row& row) {
        const int i = row.index();
        const T* const u = &unit(i, 0);
        const T* const d_u = &d_unit(i, 0);
        T* const to = &d_x(i, 0);
        const T norm = row_norm(row, columns, &x(i, 0));
        const bool constant = norm < T(least_norm);
        const T divisor = constant ? T(least_norm) : norm;
        const T along =
            constant ? T(0) : row.sum<T>(columns, [&](const int j) { return u[j] * d_u[j]; });
        row.each(columns, [&](const int j) {
          const T value = (d_u[j] - along * u[j]) / divisor;
          to[j] = beta == T(0) ? value : beta * to[j] + value;
        });
      });
}

/// z *= t.
template <class T>
void multiply(const ExecutionSpace& space, const Vector<const T>& log_temperature,
              const Matrix<T>& z) {
  const Vector<T> flat(z.data(), z.size());
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::xmoe_scale"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, flat.extent(0)),
      KOKKOS_LAMBDA(const std::size_t i) { flat(i) *= factor_of(log_temperature); });
}

/// d_cosine = t d_z, and by_token(t) = dL/dlog t from token t.
template <class T>
void split_gradient(const ExecutionSpace& space, const Vector<const T>& log_temperature,
                    const Matrix<const T>& cosine, const Matrix<const T>& d_z,
                    const Matrix<T>& d_cosine, const Matrix<T>& by_token) {
  const int experts = static_cast<int>(d_z.extent(1));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::xmoe_split"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, d_z.extent(0)), KOKKOS_LAMBDA(const int t) {
        const T factor = factor_of(log_temperature);
        T sum = 0;
        for (int e = 0; e < experts; ++e) {
          sum += d_z(t, e) * cosine(t, e);
          d_cosine(t, e) = factor * d_z(t, e);
        }
        // At the limit the temperature has no effect.
        by_token(t, 0) = factor < T(largest_factor) ? factor * sum : T(0);
      });
}

int projection_width(const RouterPlace& place, const RouterOptions& options) {
  const auto asked = static_cast<int>(options.integer("projection"));
  return asked > 0 ? asked : std::min(place.d_model, std::max(2, place.experts / 2));
}

}  // namespace

template <class T>
RouterInfo XMoeRouter<T>::info() {
  RouterInfo info{"xmoe", "the k largest cosines with learned vectors in a small space",
                  "Chi et al. 2022, arXiv 2204.09179",
                  {{"projection", std::int64_t(0),
                    "channels that tokens are projected to; 0 = E / 2, as the paper has it", 0, 65536},
                   {"temperature", 0.3, "what cosines are divided by at first; learned", 0.01, 1e6}}};
  info.takes_k = info.takes_capacity = true;
  info.layout_free = false;
  return info;
}

template <class T>
XMoeRouter<T>::XMoeRouter(const RouterPlace& place, const RouterOptions& options,
                          ParameterStore<T>& store)
    : Router<T>(place, store, 0),
      width_(projection_width(place, options)),
      rule_{place.experts, place.k, true, detail::GroupLimit(place.experts)} {
  const auto width = static_cast<std::size_t>(width_), d = static_cast<std::size_t>(place.d_model),
             experts = static_cast<std::size_t>(place.experts);
  projection_ = store.add({place.name + ".projection", {width, d},
                           Initializer::normal(1 / std::sqrt(static_cast<double>(d))), true, false,
                           false, {"width", "channel"}});
  vectors_ = store.add({place.name + ".vectors", {experts, width},
                        Initializer::normal(1 / std::sqrt(static_cast<double>(width))), true, false,
                        false, {"expert", "width"}});
  log_temperature_ =
      store.add({place.name + ".log_temperature", {1},
                 Initializer::constant(-std::log(options.real("temperature"))), false, false, false,
                 {"one"}});
}

template <class T>
Matrix<T> XMoeRouter<T>::project(const StepContext& ctx, const Matrix<const T>& x) const {
  const std::size_t tokens = x.extent(0), width = static_cast<std::size_t>(width_);
  const auto experts = static_cast<std::size_t>(this->place_.experts);
  require_shape("XMoeRouter", "x", x, tokens, static_cast<std::size_t>(this->place_.d_model));
  const Matrix<T> z = ctx.saved->template matrix<T>(tokens, experts);
  ArenaScope scope(*ctx.scratch);
  const Matrix<T> u = ctx.scratch->template matrix<T>(tokens, width);
  const Matrix<T> v = ctx.scratch->template matrix<T>(experts, width);
  gemm<T>(ctx.space, Transpose::no, Transpose::yes, T(1), x, this->store_->value(projection_), T(0),
          u);
  normalize<T>(ctx.space, u, u);
  normalize<T>(ctx.space, this->store_->value(vectors_), v);
  gemm<T>(ctx.space, Transpose::no, Transpose::yes, T(1), u, v, T(0), z);
  multiply<T>(ctx.space, this->store_->value_vector(log_temperature_), z);
  return z;
}

template <class T>
void XMoeRouter<T>::project_backward(const StepContext& ctx, const Matrix<const T>& x,
                                     const Matrix<const T>& d_z, const Matrix<T>& d_x) const {
  const std::size_t tokens = x.extent(0), width = static_cast<std::size_t>(width_);
  const auto experts = static_cast<std::size_t>(this->place_.experts);
  ParameterStore<T>& store = *this->store_;
  ArenaScope scope(*ctx.scratch);
  const auto take = [&](std::size_t rows, std::size_t columns) {
    return ctx.scratch->template matrix<T>(rows, columns);
  };
  // Computed again: two thin products cost less than keeping them.
  const Matrix<T> u = take(tokens, width), unit_u = take(tokens, width), d_u = take(tokens, width);
  const Matrix<T> unit_v = take(experts, width), d_v = take(experts, width);
  const Matrix<T> cosine = take(tokens, experts), d_cosine = take(tokens, experts);
  const Matrix<T> by_token = take(tokens, 1);
  const Matrix<T> vectors = store.value(vectors_), projection = store.value(projection_);
  gemm<T>(ctx.space, Transpose::no, Transpose::yes, T(1), x, projection, T(0), u);
  normalize<T>(ctx.space, u, unit_u);
  normalize<T>(ctx.space, vectors, unit_v);
  gemm<T>(ctx.space, Transpose::no, Transpose::yes, T(1), unit_u, unit_v, T(0), cosine);

  split_gradient<T>(ctx.space, store.value_vector(log_temperature_), cosine, d_z, d_cosine,
                    by_token);
  column_sum<T>(ctx.space, *ctx.scratch, by_token, Matrix<const T>(), Vector<const T>(),
                store.gradient_beta(log_temperature_), store.gradient_vector(log_temperature_));
  gemm<T>(ctx.space, Transpose::yes, Transpose::no, T(1), d_cosine, unit_u, T(0), d_v);
  normalize_backward<T>(ctx.space, vectors, unit_v, d_v, store.gradient_beta(vectors_),
                        store.gradient(vectors_));
  gemm<T>(ctx.space, Transpose::no, Transpose::no, T(1), d_cosine, unit_v, T(0), d_u);
  normalize_backward<T>(ctx.space, u, unit_u, d_u, T(0), d_u);
  gemm<T>(ctx.space, Transpose::yes, Transpose::no, T(1), d_u, x, store.gradient_beta(projection_),
          store.gradient(projection_));
  gemm<T>(ctx.space, Transpose::no, Transpose::no, T(1), d_u, projection, T(1), d_x);
}

template <class T>
Routing<T> XMoeRouter<T>::route_logits(const StepContext& ctx, const Matrix<const T>& z,
                                       const Routing<T>* replay) const {
  const detail::Jitter<T> none(ctx, PhiloxStream(), 0);
  return detail::route_top_k<T>(ctx, "XMoeRouter", rule_, none, z, replay);
}

template <class T>
void XMoeRouter<T>::logits_backward(const StepContext& ctx, const Matrix<const T>&,
                                    const Routing<T>& routing, const RouterFeedback<T>& feedback,
                                    const Matrix<T>& d_z) const {
  const detail::Jitter<T> none(ctx, PhiloxStream(), 0);
  detail::top_k_backward<T>(ctx, rule_, none, routing, feedback.d_weight, feedback.d_probability,
                            d_z);
}

template class XMoeRouter<float>;
template class XMoeRouter<double>;

}  // namespace kokomoe
