// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/nn/sample_classes.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/math.hpp"
#include "kokomoe/core/row_kernels.hpp"

namespace kokomoe {

namespace {

/// Classes summed at once; the one that is drawn is then looked for among so many.
constexpr int chunk = 256;

/// What exp is taken of: classes [begin, ...) of one row.
template <class T>
struct Exponents {
  const T* logits;
  T maximum, inverse_temperature;
  KOKKOS_INLINE_FUNCTION double weight(int v) const {
    return static_cast<double>(fast_exp((logits[v] - maximum) * inverse_temperature));
  }
  /// Sum over classes [begin, end).
  KOKKOS_INLINE_FUNCTION double sum(const Row& row, int begin, int end) const {
    return row.template sum<double>(end - begin,
                                    [&](const int j) { return this->weight(begin + j); });
  }
};

}  // namespace

template <class T>
void sample_classes(const StepContext& ctx, Purpose purpose, double temperature,
                    const Matrix<const T>& logits, const Vector<int>& classes) {
  const std::size_t tokens = logits.extent(0);
  if (classes.extent(0) != tokens || static_cast<std::size_t>(ctx.tokens.tokens) != tokens)
    fail_shape("sample_classes", "classes", classes.extent(0), 1, tokens, 1);
  if (tokens == 0) return;
  const int count = static_cast<int>(logits.extent(1));
  const T inverse_temperature = static_cast<T>(1 / temperature);
  const PhiloxStream stream(ctx.seed, purpose, ctx.step, 0, ctx.replica);
  const Vector<const std::uint32_t> sequence = ctx.tokens.sequence_index;
  const Vector<const int> position = ctx.tokens.position;
  for_each_row(
      KOKOMOE_LABEL("nn::sample_classes"), ctx.space, static_cast<int>(tokens),
      KOKKOS_LAMBDA(const Row& row) {
        const int t = row.index();
        const T* const z = &logits(t, 0);
        const T maximum = row.template maximum<T>(count, [&](const int v) { return z[v]; });
        const Exponents<T> exponents{z, maximum, inverse_temperature};
        double total = 0;
        for (int begin = 0; begin < count; begin += chunk)
          total += exponents.sum(row, begin, begin + chunk < count ? begin + chunk : count);
        const double wanted = total * stream.template uniform<double>(
                                          sequence(t), static_cast<std::uint32_t>(position(t)), 0);
        // The same sums in the same order: one of them passes what is wanted.
        int begin = 0;
        double below = 0;
        for (; begin + chunk < count; begin += chunk) {
          const double next = below + exponents.sum(row, begin, begin + chunk);
          if (next > wanted) break;
          below = next;
        }
        row.once([&]() {
          const int end = begin + chunk < count ? begin + chunk : count;
          int drawn = begin;
          for (int v = begin; v < end; ++v) {
            const double weight = exponents.weight(v);
            // Added one by one the sum may end just short: then the last one it is.
            if (weight > 0) drawn = v;
            below += weight;
            if (below > wanted) break;
          }
          classes(t) = drawn;
        });
      });
}

#define KOKOMOE_INSTANTIATE(T)                                                                 \
  template void sample_classes<T>(const StepContext&, Purpose, double, const Matrix<const T>&, \
                                  const Vector<int>&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
