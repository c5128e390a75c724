// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/types.hpp"

#include <cmath>
#include <cstdint>

/// Sums whose value does not depend on the order of their parts: every part is rounded to a fixed
/// grid by itself, and numbers on a grid add without rounding.
namespace kokomoe::exact_sum {

/// A fixed-point number in two 64-bit limbs: high 2^-26 + low 2^-76. Part and sum are whole
/// numbers, so parts may be added in any order, by any thread and rank.
///
///   one part     |x| < 2^16, hence |high| <= 2^42 and |low| <= 2^49
///   a sum        2^20 parts and more fit in high; low must be carried every 2^13 additions
///   over ranks   2^13 carried numbers add up
inline constexpr int high_bits = 26;
inline constexpr int limb_bits = 50;
inline constexpr double part_limit = 65536;
inline constexpr int parts_between_carries = 4096;
/// Sequences of an update, each of which gives a gradient at most two parts (tied tensors).
inline constexpr std::int64_t largest_sequences = std::int64_t(1) << 19;

/// False for what a part may not be: too large, infinite, or no number.
KOKKOS_INLINE_FUNCTION bool is_part(double x) {
  return Kokkos::abs(x) < part_limit;
}

/// Adds x, rounded to 2^-76. What is no part adds nothing, and the caller must say so.
/// The products are exact, so fused multiply-adds change nothing.
KOKKOS_INLINE_FUNCTION void add(double x, std::int64_t& high, std::int64_t& low) {
  // 1.5 2^52: after adding it, a number's last bits are the nearest whole number. Unlike a
  // conversion this vectorises on every CPU.
  constexpr double shift = 6755399441055744.0;
  constexpr std::int64_t shift_bits = 0x4338000000000000;
  x = is_part(x) ? x : 0.0;
  const double a = x * 0x1p26 + shift;
  const double rest = x - (a - shift) * 0x1p-26;
  const double b = rest * 0x1p76 + shift;
  high += Kokkos::bit_cast<std::int64_t>(a) - shift_bits;
  low += Kokkos::bit_cast<std::int64_t>(b) - shift_bits;
}

/// Brings low into [-2^49, 2^49): the one form of each value.
KOKKOS_INLINE_FUNCTION void carry(std::int64_t& high, std::int64_t& low) {
  constexpr std::int64_t one = std::int64_t(1) << limb_bits;
  const std::int64_t over = (low + one / 2) >> limb_bits;
  high += over;
  low -= over * one;
}

/// The value, rounded to double; carries first.
KOKKOS_INLINE_FUNCTION double value(std::int64_t high, std::int64_t low) {
  carry(high, low);
  return static_cast<double>(high) * 0x1p-26 + static_cast<double>(low) * 0x1p-76;
}

/// Where exact sums of a tensor lie: both limbs, and a count of parts that did not fit.
struct Sums {
  Matrix<std::int64_t> high, low;
  Vector<std::int64_t> outside;  ///< (1)

  /// Rows [begin, end).
  Sums rows(std::size_t begin, std::size_t end) const {
    const std::size_t width = high.extent(1);
    return {Matrix<std::int64_t>(high.data() + begin * width, end - begin, width),
            Matrix<std::int64_t>(low.data() + begin * width, end - begin, width), outside};
  }
};

/// A grid for sums of doubles over tokens: `values` of at most 2^limit_bits a token, over `tokens`
/// tokens on all ranks. Multiples of 2^(limit_bits - 52) tokens, rounded up to a power of two, add
/// without rounding, so a plain sum of them is exact.
struct Grid {
  double step = 0;
  double limit = 0;  ///< no part may be larger

  Grid(int limit_bits, double tokens) {
    int bits = 0;
    std::frexp(tokens, &bits);
    limit = std::ldexp(1.0, limit_bits + bits);
    step = std::ldexp(1.0, limit_bits + bits - 52);
  }
  /// x on the grid; NaN when it is too large, so that the loss shows it.
  KOKKOS_INLINE_FUNCTION double round(double x) const {
    return Kokkos::abs(x) < limit ? Kokkos::floor(x / step + 0.5) * step
                                  : Kokkos::Experimental::quiet_NaN_v<double>;
  }
};

}  // namespace kokomoe::exact_sum
