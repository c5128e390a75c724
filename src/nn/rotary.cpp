// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/nn/rotary.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"

namespace kokomoe {

namespace {

// A constructor may not hold a device lambda.
template <class T>
void fill_table(const ExecutionSpace& space, const Matrix<T>& table, int half) {
  Kokkos::parallel_for(
      KOKOMOE_LABEL("nn::rotary::fill"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, table.extent(0)), KOKKOS_LAMBDA(const int p) {
        for (int j = 0; j < half; ++j) {
          const double angle = p * Kokkos::pow(10000.0, -2.0 * j / (2 * half));
          table(p, j) = static_cast<T>(Kokkos::cos(angle));
          table(p, half + j) = static_cast<T>(Kokkos::sin(angle));
        }
      });
  space.fence(KOKOMOE_LABEL("nn::rotary::fill"));
}

}  // namespace

Positions parse_positions(const std::string& name) {
  if (name == "rotary") return Positions::rotary;
  if (name == "learned") return Positions::learned;
  throw InputError("unknown positions \"" + name + "\": choose rotary or learned");
}

template <class T>
Rotary<T>::Rotary(const ExecutionSpace& space, int positions, int head_width) : width_(head_width) {
  if (head_width % 2 != 0)
    throw InputError("rotary positions need an even head width, not " + std::to_string(head_width));
  table_ = Matrix<T>("kokomoe::nn::rotary::table", static_cast<std::size_t>(positions),
                     static_cast<std::size_t>(head_width));
  fill_table(space, table_, head_width / 2);
}

template <class T>
void Rotary<T>::apply(const StepContext& ctx, const Matrix<T>& x, int first, int heads,
                      bool inverse) const {
  if (ctx.tokens.max_length > positions())
    fail("Rotary", "a sequence of " + std::to_string(ctx.tokens.max_length) +
                       " tokens exceeds the " + std::to_string(positions()) + " positions");
  const Matrix<const T> table = table_;
  const Vector<const int> position = ctx.tokens.position;
  const int half = width_ / 2, width = width_;
  const T sign = inverse ? T(-1) : T(1);
  for_each_row(
      KOKOMOE_LABEL("nn::rotary"), ctx.space, static_cast<int>(x.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        const T* const cosine = &table(position(row.index()), 0);
        const T* const sine = cosine + half;
        for (int h = 0; h < heads; ++h) {
          T* const a = &x(row.index(), first + h * width);
          T* const b = a + half;
          row.each(half, [&](const int j) {
            const T s = sign * sine[j];
            const T turned = a[j] * cosine[j] - b[j] * s;
            b[j] = a[j] * s + b[j] * cosine[j];
            a[j] = turned;
          });
        }
      });
}

template class Rotary<float>;
template class Rotary<double>;

}  // namespace kokomoe
