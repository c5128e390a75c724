// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/nn/dropout.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/philox.hpp"
#include "kokomoe/core/row_kernels.hpp"

namespace kokomoe {

template <class T>
void dropout(const StepContext& ctx, double rate, int layer, int lane, const Matrix<const T>& x,
             const Matrix<T>& y, bool accumulate) {
  require_shape("dropout", "y", y, x.extent(0), x.extent(1));
  const int columns = static_cast<int>(x.extent(1)), rows = static_cast<int>(x.extent(0));
  if (rate == 0 || !ctx.training) {
    if (!accumulate && x.data() == y.data()) return;
    for_each_row(
        KOKOMOE_LABEL("nn::residual"), ctx.space, rows, KOKKOS_LAMBDA(const Row& row) {
          const T* const from = &x(row.index(), 0);
          T* const to = &y(row.index(), 0);
          if (accumulate)
            row.each(columns, [&](const int j) { to[j] += from[j]; });
          else
            row.each(columns, [&](const int j) { to[j] = from[j]; });
        });
    return;
  }
  const PhiloxStream stream(ctx.seed, Purpose::dropout, ctx.step,
                            static_cast<std::uint32_t>(layer), ctx.replica);
  const auto lane_bits = static_cast<std::uint32_t>(lane);
  const T scale = static_cast<T>(1 / (1 - rate)), threshold = static_cast<T>(rate);
  const Vector<const std::uint32_t> sequence = ctx.tokens.sequence_index;
  const Vector<const int> position = ctx.tokens.position;
  for_each_row(
      KOKOMOE_LABEL("nn::dropout"), ctx.space, rows, KOKKOS_LAMBDA(const Row& row) {
        const int t = row.index();
        const T* const from = &x(t, 0);
        T* const to = &y(t, 0);
        row.each((columns + 3) / 4, [&](const int b) {
          const PhiloxBlock draws =
              stream.block(sequence(t), static_cast<std::uint32_t>(position(t)),
                           static_cast<std::uint32_t>(b), lane_bits);
          const int end = 4 * b + 4 < columns ? 4 : columns - 4 * b;
          for (int i = 0; i < end; ++i) {
            const T keep = open_uniform<T>(draws.word[i]) > threshold ? scale : T(0);
            const T value = keep * from[4 * b + i];
            to[4 * b + i] = accumulate ? to[4 * b + i] + value : value;
          }
        });
      });
}

#define KOKOMOE_INSTANTIATE(T)                                                               \
  template void dropout<T>(const StepContext&, double, int, int, const Matrix<const T>&,     \
                           const Matrix<T>&, bool);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
