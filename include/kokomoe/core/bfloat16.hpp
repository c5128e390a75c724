// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <Kokkos_Core.hpp>

#include <cstdint>

namespace kokomoe {

/// A float's upper half: 8 bits of exponent, 7 of mantissa, to store and not to compute with
/// (Kokkos' bhalf_t is a float in builds for hosts). Rounds to the nearest, ties to the even one;
/// beyond the largest to infinity; NaN stays NaN.
class Bfloat16 {
 public:
  Bfloat16() = default;
  KOKKOS_INLINE_FUNCTION explicit Bfloat16(float x) : bits_(nearest(x)) {}
  /// As = Bfloat16(x), of which GCC 12 makes no vectors.
  KOKKOS_INLINE_FUNCTION void set(float x) { bits_ = nearest(x); }
  KOKKOS_INLINE_FUNCTION explicit operator float() const {
    return Kokkos::bit_cast<float>(static_cast<std::uint32_t>(bits_) << 16);
  }

 private:
  KOKKOS_INLINE_FUNCTION static std::uint16_t nearest(float x) {
    const auto bits = Kokkos::bit_cast<std::uint32_t>(x);
    const std::uint32_t rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
    const std::uint32_t quiet = (bits >> 16) | 0x40U;
    return static_cast<std::uint16_t>((bits & 0x7FFFFFFFU) > 0x7F800000U ? quiet : rounded);
  }

  std::uint16_t bits_;
};

static_assert(sizeof(Bfloat16) == 2);

}  // namespace kokomoe
