// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/detail/logit_row.hpp"

namespace kokomoe::detail {

/// 0 and 1 at -+infinity; exp overflows to the right result.
template <class T>
KOKKOS_INLINE_FUNCTION T logistic(T z) {
  return T(1) / (T(1) + Kokkos::exp(-z));
}

/// w[r] = softmax of the row over the experts chosen[0..k).
template <class T>
KOKKOS_INLINE_FUNCTION void softmax_of_chosen(const LogitRow<T>& row, const int* chosen, int k,
                                              T* w) {
  T largest = row.value(chosen[0]), sum = 0;
  for (int r = 1; r < k; ++r) {
    const T value = row.value(chosen[r]);
    largest = value > largest ? value : largest;
  }
  // Experts of -infinity alone: a replay may have chosen them.
  if (largest == -Kokkos::Experimental::infinity_v<T>) largest = 0;
  for (int r = 0; r < k; ++r) {
    w[r] = Kokkos::exp(row.value(chosen[r]) - largest);
    sum += w[r];
  }
  for (int r = 0; r < k; ++r) w[r] = sum == T(0) ? T(1) / static_cast<T>(k) : w[r] / sum;
}

}  // namespace kokomoe::detail
