// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/nn/norm.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/parameters/products.hpp"

namespace kokomoe {

NormKind parse_norm(const std::string& name) {
  if (name == "layer_norm") return NormKind::layer;
  if (name == "rms_norm") return NormKind::rms;
  throw InputError("unknown norm \"" + name + "\": choose layer_norm or rms_norm");
}

namespace {

/// A row of y from its statistics.
template <class T>
KOKKOS_INLINE_FUNCTION void write_row(const Row& row, int d, const T* in, T mean, T scale,
                                      const Vector<const T>& weight, const Vector<const T>& bias,
                                      T* out) {
  if (bias.extent(0) != 0)
    row.each(d, [&](const int j) { out[j] = (in[j] - mean) * scale * weight(j) + bias(j); });
  else
    row.each(d, [&](const int j) { out[j] = in[j] * scale * weight(j); });
}

}  // namespace

template <class T>
Norm<T>::Norm(NormKind kind, int d_model, ParameterStore<T>& store, const std::string& name)
    : kind_(kind), store_(&store) {
  const auto d = static_cast<std::size_t>(d_model);
  weight_ = store.add(
      {name + ".weight", {d}, Initializer::constant(1), false, false, false, {"channel"}});
  if (kind == NormKind::layer)
    bias_ = store.add(
        {name + ".bias", {d}, Initializer::constant(0), false, false, false, {"channel"}});
}

template <class T>
Vector<const T> Norm<T>::bias() const {
  return kind_ == NormKind::layer ? Vector<const T>(store_->value_vector(bias_))
                                  : Vector<const T>();
}

template <class T>
void Norm<T>::forward(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y,
                      Saved& saved) const {
  const Region region(KOKOMOE_LABEL("nn::norm"));
  require_shape("Norm::forward", "y", y, x.extent(0), x.extent(1));
  const int d = static_cast<int>(x.extent(1));
  saved.x = x;
  saved.statistics = ctx.saved->template matrix<T>(x.extent(0), 2);
  const Matrix<T> statistics = saved.statistics;
  const bool centred = kind_ == NormKind::layer;
  const Vector<const T> weight = store_->value_vector(weight_);
  const Vector<const T> bias = this->bias();
  const T epsilon = centred ? T(1e-5) : T(1e-6);
  for_each_row(
      KOKOMOE_LABEL("nn::norm"), ctx.space, static_cast<int>(x.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        const int t = row.index();
        const T* const in = &x(t, 0);
        const T mean =
            centred ? row.template sum<T>(d, [&](const int j) { return in[j]; }) / T(d) : T(0);
        const T square =
            row.template sum<T>(d, [&](const int j) { return (in[j] - mean) * (in[j] - mean); });
        const T scale = T(1) / Kokkos::sqrt(square / T(d) + epsilon);
        row.once([&]() {
          statistics(t, 0) = mean;
          statistics(t, 1) = scale;
        });
        write_row(row, d, in, mean, scale, weight, bias, &y(t, 0));
      });
}

template <class T>
void Norm<T>::again(const StepContext& ctx, const Saved& saved, const Matrix<T>& y) const {
  const Region region(KOKOMOE_LABEL("nn::norm"));
  const Matrix<const T> x = saved.x, statistics = saved.statistics;
  require_shape("Norm::again", "y", y, x.extent(0), x.extent(1));
  const int d = static_cast<int>(x.extent(1));
  const Vector<const T> weight = store_->value_vector(weight_), bias = this->bias();
  for_each_row(
      KOKOMOE_LABEL("nn::norm_again"), ctx.space, static_cast<int>(x.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        const int t = row.index();
        write_row(row, d, &x(t, 0), statistics(t, 0), statistics(t, 1), weight, bias, &y(t, 0));
      });
}

template <class T>
void Norm<T>::backward(const StepContext& ctx, const Saved& saved, const Matrix<const T>& dy,
                       const Matrix<T>& dx) const {
  const Region region(KOKOMOE_LABEL("nn::norm_backward"));
  const Matrix<const T> x = saved.x, statistics = saved.statistics;
  require_shape("Norm::backward", "dy", dy, x.extent(0), x.extent(1));
  require_shape("Norm::backward", "dx", dx, x.extent(0), x.extent(1));
  const int d = static_cast<int>(x.extent(1)), tokens = static_cast<int>(x.extent(0));
  const bool centred = kind_ == NormKind::layer;
  const Vector<const T> weight = store_->value_vector(weight_);
  ArenaScope scope(*ctx.scratch);
  const Matrix<T> normalised = ctx.scratch->template matrix<T>(x.extent(0), x.extent(1));
  for_each_row(
      KOKOMOE_LABEL("nn::norm_backward"), ctx.space, tokens, KOKKOS_LAMBDA(const Row& row) {
        const int t = row.index();
        const T* const in = &x(t, 0);
        const T* const g = &dy(t, 0);
        T* const n = &normalised(t, 0);
        T* const out = &dx(t, 0);
        const T mean = statistics(t, 0), scale = statistics(t, 1);
        const T* const w = weight.data();
        row.each(d, [&](const int j) { n[j] = (in[j] - mean) * scale; });
        // With n the normalised row and h = weight dy: dx = scale (h - mean h - n mean(h n)).
        const T dot =
            row.template sum<T>(d, [&](const int j) { return g[j] * w[j] * n[j]; }) / T(d);
        const T shift =
            centred ? row.template sum<T>(d, [&](const int j) { return g[j] * w[j]; }) / T(d)
                    : T(0);
        row.each(d, [&](const int j) { out[j] += scale * (g[j] * w[j] - shift - n[j] * dot); });
      });
  add_column_gradient<T>(ctx, dy, normalised, *store_, weight_);
  if (centred) add_column_gradient<T>(ctx, dy, Matrix<const T>(), *store_, bias_);
}

template class Norm<float>;
template class Norm<double>;

}  // namespace kokomoe
