// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/nn/cross_entropy.hpp"

#include "kokomoe/core/column_sum.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/math.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/parameters/products.hpp"

namespace kokomoe {

template <class T>
void cross_entropy(const StepContext& ctx, const Matrix<T>& logits,
                   const Vector<const int>& targets, double smoothing, bool gradient,
                   const Vector<double>& sums, const Vector<double>& sequence_loss) {
  const std::size_t tokens = logits.extent(0);
  const int classes = static_cast<int>(logits.extent(1));
  if (targets.extent(0) != tokens)
    fail_shape("cross_entropy", "targets", targets.extent(0), 1, tokens, 1);
  const auto sequences = static_cast<std::size_t>(ctx.tokens.sequences);
  if (sequence_loss.extent(0) != 0 && sequence_loss.extent(0) != sequences)
    fail_shape("cross_entropy", "sequence_loss", sequence_loss.extent(0), 1, sequences, 1);
  ArenaScope scope(*ctx.scratch);
  const Matrix<double> each = ctx.scratch->matrix<double>(tokens, CrossEntropySums::width);
  const T smooth = static_cast<T>(smoothing), scale = static_cast<T>(ctx.loss_scale);
  for_each_row(
      KOKOMOE_LABEL("nn::cross_entropy"), ctx.space, static_cast<int>(tokens),
      KOKKOS_LAMBDA(const Row& row) {
        const int t = row.index(), target = targets(t);
        T* const z = &logits(t, 0);
        if (target < 0) {
          row.once([&]() { each(t, 0) = each(t, 1) = each(t, 2) = 0; });
          if (gradient) row.each(classes, [&](const int v) { z[v] = 0; });
          return;
        }
        const T maximum = row.template maximum<T>(classes, [&](const int v) { return z[v]; });
        const T z_target = z[target];
        const T total = row.template sum<T>(classes, [&](const int v) { return z[v] - maximum; });
        const T sum =
            row.template sum<T>(classes, [&](const int v) { return fast_exp(z[v] - maximum); });
        const T log_sum = Kokkos::log(sum);
        const T likelihood = log_sum - (z_target - maximum);
        row.once([&]() {
          each(t, 0) = (T(1) - smooth) * likelihood + smooth * (log_sum - total / T(classes));
          each(t, 1) = likelihood;
          each(t, 2) = z_target == maximum ? 1 : 0;
        });
        if (!gradient) return;
        const T inverse = scale / sum, uniform = scale * smooth / T(classes);
        row.each(classes, [&](const int v) {
          z[v] = fast_exp(z[v] - maximum) * inverse - uniform;
        });
        row.once([&]() { z[target] -= scale * (T(1) - smooth); });
      });
  // A thousand nats a token: no loss that a model recovers from.
  if (ctx.layout_free)
    grid_column_sum<double>(ctx.space, *ctx.scratch, each, segments_of(ctx),
                            exact_sum::Grid(10, ctx.update_tokens), sums);
  else
    column_sum<double>(ctx.space, *ctx.scratch, each, Matrix<const double>(),
                       Vector<const double>(), 0.0, sums);
  if (sequence_loss.extent(0) == 0) return;
  const Vector<const int> offsets = ctx.tokens.sequence_offsets;
  for_each_row(
      KOKOMOE_LABEL("nn::cross_entropy::sequences"), ctx.space, ctx.tokens.sequences,
      KOKKOS_LAMBDA(const Row& row) {
        const int b = row.index(), begin = offsets(b);
        const double sum = row.template sum<double>(
            offsets(b + 1) - begin, [&](const int i) { return each(begin + i, 0); });
        row.once([&]() { sequence_loss(b) = sum; });
      });
}

#define KOKOMOE_INSTANTIATE(T)                                                                 \
  template void cross_entropy<T>(const StepContext&, const Matrix<T>&, const Vector<const int>&, \
                                 double, bool, const Vector<double>&, const Vector<double>&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
