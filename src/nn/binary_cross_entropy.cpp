// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/nn/binary_cross_entropy.hpp"

#include "kokomoe/core/column_sum.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/parameters/products.hpp"

namespace kokomoe {

template <class T>
void binary_cross_entropy(const StepContext& ctx, const Matrix<T>& logits,
                          const Vector<const int>& labels, double scale, bool gradient,
                          const Vector<double>& sums, const Vector<double>& sequence_loss) {
  const std::size_t tokens = labels.extent(0);
  require_shape("binary_cross_entropy", "logits", logits, tokens, 1);
  const auto sequences = static_cast<std::size_t>(ctx.tokens.sequences);
  if (sequence_loss.extent(0) != 0 && sequence_loss.extent(0) != sequences)
    fail_shape("binary_cross_entropy", "sequence_loss", sequence_loss.extent(0), 1, sequences, 1);
  ArenaScope scope(*ctx.scratch);
  const Matrix<double> each = ctx.scratch->matrix<double>(tokens, BinarySums::width);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("nn::binary_cross_entropy"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, static_cast<int>(tokens)),
      KOKKOS_LAMBDA(const int t) {
        const T z = logits(t, 0), size = Kokkos::abs(z);
        const bool one = labels(t) != 0, says_one = z > T(0);
        // exp of what is not positive: neither the loss nor its derivative overflows.
        const T e = Kokkos::exp(-size);
        each(t, 0) = (says_one == one ? T(0) : size) + Kokkos::log1p(e);
        each(t, 1) = says_one == one ? 1 : 0;
        each(t, 2) = one ? 1 : 0;
        each(t, 3) = one && says_one ? 1 : 0;
        if (!gradient) return;
        const T probability = (says_one ? T(1) : e) / (T(1) + e);
        logits(t, 0) = static_cast<T>(scale) * (probability - (one ? T(1) : T(0)));
      });
  // A thousand nats a token, as in cross_entropy.
  if (ctx.layout_free)
    grid_column_sum<double>(ctx.space, *ctx.scratch, each, segments_of(ctx),
                            exact_sum::Grid(10, ctx.update_tokens), sums);
  else
    column_sum<double>(ctx.space, *ctx.scratch, each, Matrix<const double>(),
                       Vector<const double>(), 0.0, sums);
  if (sequence_loss.extent(0) == 0) return;
  const Vector<const int> offsets = ctx.tokens.sequence_offsets;
  for_each_row(
      KOKOMOE_LABEL("nn::binary_cross_entropy::sequences"), ctx.space, ctx.tokens.sequences,
      KOKKOS_LAMBDA(const Row& row) {
        const int b = row.index(), begin = offsets(b);
        const double sum = row.template sum<double>(
            offsets(b + 1) - begin, [&](const int i) { return each(begin + i, 0); });
        row.once([&]() { sequence_loss(b) = sum; });
      });
}

#define KOKOMOE_INSTANTIATE(T)                                                  \
  template void binary_cross_entropy<T>(const StepContext&, const Matrix<T>&,   \
                                        const Vector<const int>&, double, bool, \
                                        const Vector<double>&, const Vector<double>&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
