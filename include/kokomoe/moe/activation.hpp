// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/math.hpp"

#include <Kokkos_Core.hpp>

#include <string>

namespace kokomoe {

/// relu(x); gelu(x) = x Phi(x), Phi being the normal distribution itself; swiglu(g, u) = g sigmoid(g) u, whose
/// experts have a first matrix of twice the hidden width (gate rows first, then up rows).
enum class Activation { relu, gelu, swiglu };

/// Throws InputError naming the choices.
Activation parse_activation(const std::string& name);
std::string to_string(Activation activation);

/// Columns of the first matrix for h hidden channels.
inline int first_width(Activation activation, int hidden) {
  return activation == Activation::swiglu ? 2 * hidden : hidden;
}

/// Value and derivative of the one-argument activations.
struct Relu {
  template <class T>
  KOKKOS_INLINE_FUNCTION static T value(T x) {
    return x > T(0) ? x : T(0);
  }
  template <class T>
  KOKKOS_INLINE_FUNCTION static T derivative(T x) {
    return x > T(0) ? T(1) : T(0);
  }
};

struct Gelu {
  template <class T>
  KOKKOS_INLINE_FUNCTION static T value(T x) {
    T density;
    return x * normal_cdf(x, density);
  }
  template <class T>
  KOKKOS_INLINE_FUNCTION static T derivative(T x) {
    T density;
    const T cumulative = normal_cdf(x, density);
    return cumulative + x * density;
  }
};

template <class T>
KOKKOS_INLINE_FUNCTION T fast_sigmoid(T x) {
  return T(1) / (T(1) + fast_exp(-x));
}

}  // namespace kokomoe
