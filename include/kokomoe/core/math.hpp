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

/// Phi(x), the standard normal distribution; `density` becomes phi(x). In float, on every machine,
/// Phi(-|x|) is phi(x) times a rational function of |x| (relative error below 2e-6 down to -8,
/// absolute below 3e-7; tests/reference/normal_tail.py fits it), which compilers vectorise.
KOKKOS_INLINE_FUNCTION double normal_cdf(double x, double& density) {
  density = Kokkos::exp(-0.5 * x * x) * 0.39894228040143267794;
  return 0.5 * Kokkos::erfc(-0.70710678118654752440 * x);
}

KOKKOS_INLINE_FUNCTION float normal_cdf(float x, float& density) {
  const float bell = fast_exp(-0.5f * x * x);
  density = bell * 0.3989422804f;
  const float t = 1.0f / (1.0f + 0.35f * (x < 0 ? -x : x));
  float p = -0.0290951015f;
  p = p * t + 0.143719575f;
  p = p * t - 0.255182314f;
  p = p * t + 0.158552411f;
  p = p * t - 0.0226708599f;
  p = p * t + 0.105316938f;
  p = p * t + 0.119882758f;
  p = p * t + 0.139854749f;
  p = p * t + 0.139621828f;
  const float tail = p * t * bell;
  return x < 0 ? tail : 1.0f - tail;
}

}  // namespace kokomoe
