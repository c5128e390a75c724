// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <Kokkos_Core.hpp>

#include <cstdint>

namespace kokomoe {

namespace detail {
/// -87.3 and 88.3. Compilers that know them work out what follows from exp(88.3) as a case of its
/// own, for every element, and products of 1 / (1 + exp(88.3)) are subnormal: a hundred cycles
/// each.
extern const float exp_range[2];
}  // namespace detail

/// exp for inner loops over channels. In float on a host this is a degree-6 polynomial after
/// reduction by ln 2 (relative error below 3e-7, arguments clamped to [-87.3, 88.3]), because
/// compilers vectorise it and do not vectorise libm's; elsewhere it is Kokkos::exp. Routers do not
/// use it: their choices must not depend on the build.
KOKKOS_INLINE_FUNCTION double fast_exp(double x) {
  return Kokkos::exp(x);
}

KOKKOS_INLINE_FUNCTION float fast_exp(float x) {
#if defined(__CUDA_ARCH__) || defined(__HIP_DEVICE_COMPILE__) || defined(__SYCL_DEVICE_ONLY__)
  return Kokkos::exp(x);
#else
  x = x < detail::exp_range[0] ? detail::exp_range[0] : x;
  x = x > detail::exp_range[1] ? detail::exp_range[1] : x;
  // x = n ln 2 + r: adding and taking away 1.5 * 2^23 rounds to the nearest integer.
  const float shifted = x * 1.44269504088896341f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  // Taylor's series about 0 on |r| <= ln 2 / 2, in Horner's form.
  float p = 1.3888889e-3f;
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // 2^n by its exponent bits: n is in [-126, 127].
  union {
    std::int32_t i;
    float f;
  } power;
  power.i = (static_cast<std::int32_t>(n) + 127) << 23;
  return p * power.f;
#endif
}

}  // namespace kokomoe
