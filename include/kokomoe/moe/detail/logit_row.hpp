// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/types.hpp"

namespace kokomoe::detail {

/// One token's logits, with a defined meaning for every bit pattern. A row with +inf entries
/// counts those as 0 and all others as -inf; a row of nothing but -inf counts as all zeros; NaN
/// entries never win and make every probability NaN, which the loss then shows. Ties go to the
/// lowest index. Everything here is plain exp and compare, so that equal logits give equal choices
/// in every build.
template <class T>
class LogitRow {
 public:
  KOKKOS_INLINE_FUNCTION LogitRow(const T* z, int experts) : z_(z), experts_(experts) {
    constexpr T infinity = Kokkos::Experimental::infinity_v<T>;
    raw_maximum_ = -infinity;
    for (int e = 0; e < experts; ++e) {
      if (z[e] > raw_maximum_) {
        raw_maximum_ = z[e];
        argmax_ = e;
      }
    }
    infinite_ = raw_maximum_ == infinity || raw_maximum_ == -infinity;
    maximum_ = infinite_ ? T(0) : raw_maximum_;
  }

  KOKKOS_INLINE_FUNCTION T value(int e) const {
    if (!infinite_ || z_[e] != z_[e]) return z_[e];
    return z_[e] == raw_maximum_ ? T(0) : -Kokkos::Experimental::infinity_v<T>;
  }
  KOKKOS_INLINE_FUNCTION T maximum() const { return maximum_; }
  KOKKOS_INLINE_FUNCTION int argmax() const { return argmax_; }
  KOKKOS_INLINE_FUNCTION int experts() const { return experts_; }

 private:
  const T* z_;
  int experts_;
  int argmax_ = 0;
  bool infinite_;
  T raw_maximum_;
  T maximum_;
};

/// p[e] = softmax over the experts that `kept(e)` is true for, 0 for the others. p may be the
/// row's own storage.
template <class T, class Kept>
KOKKOS_INLINE_FUNCTION void softmax_row(const LogitRow<T>& row, const Kept& kept, T* p) {
  T sum = 0;
  for (int e = 0; e < row.experts(); ++e) {
    p[e] = kept(e) ? Kokkos::exp(row.value(e) - row.maximum()) : T(0);
    sum += p[e];
  }
  for (int e = 0; e < row.experts(); ++e) p[e] /= sum;
}

/// The best value(e) among experts that are not in chosen[0..count): lowest index on ties, and
/// the lowest index left when nothing compares (NaN).
template <class Value>
KOKKOS_INLINE_FUNCTION int best_remaining(int experts, const int* chosen, int count,
                                          const Value& value) {
  int best = -1;
  for (int e = 0; e < experts; ++e) {
    bool taken = false;
    for (int r = 0; r < count; ++r) taken = taken || chosen[r] == e;
    if (taken) continue;
    if (best < 0 || value(e) > value(best) || (value(best) != value(best) && value(e) == value(e)))
      best = e;
  }
  return best;
}

/// Adds factor(i) p_i (g_i - sum_j p_j g_j) to d_z: the softmax Jacobian on g.
template <class T, class Gradient, class Factor>
KOKKOS_INLINE_FUNCTION void add_softmax_backward(int experts, const T* p, const Gradient& g,
                                                 const Factor& factor, T* d_z) {
  T mean = 0;
  for (int e = 0; e < experts; ++e) mean += p[e] * g(e);
  for (int e = 0; e < experts; ++e) d_z[e] += factor(e) * (p[e] * (g(e) - mean));
}

/// d_probability(t, e), or 0 when the matrix is empty.
template <class T>
KOKKOS_INLINE_FUNCTION T probability_gradient(const Matrix<const T>& d_probability, int t, int e) {
  return d_probability.extent(0) == 0 ? T(0) : d_probability(t, e);
}

}  // namespace kokomoe::detail
