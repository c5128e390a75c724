// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/types.hpp"

#include <cstdint>
#include <type_traits>

namespace kokomoe::detail {

template <class T>
using OrderKey = std::conditional_t<std::is_same_v<T, float>, std::uint32_t, std::uint64_t>;

/// An unsigned integer that is larger for larger numbers: 0 for NaN, the same for both zeros.
template <class T>
KOKKOS_INLINE_FUNCTION OrderKey<T> order_key(T value) {
  using Key = OrderKey<T>;
  constexpr Key sign = Key(1) << (8 * sizeof(Key) - 1);
  if (value != value) return 0;
  if (value == T(0)) return sign;
  const Key bits = Kokkos::bit_cast<Key>(value);
  return (bits & sign) != 0 ? Key(~bits) : Key(bits | sign);
}

/// The number that has this key (never NaN's).
template <class T>
KOKKOS_INLINE_FUNCTION T from_order_key(OrderKey<T> key) {
  using Key = OrderKey<T>;
  constexpr Key sign = Key(1) << (8 * sizeof(Key) - 1);
  return Kokkos::bit_cast<T>((key & sign) != 0 ? Key(key & ~sign) : Key(~key));
}

/// The `rank`-th largest (1 = largest) of key(0), ..., key(count - 1), 1 <= rank <= count. One bit
/// after the other: takes no memory, and 32 or 64 passes.
template <class T, class Keys>
KOKKOS_INLINE_FUNCTION OrderKey<T> nth_largest_key(int count, int rank, const Keys& key) {
  using Key = OrderKey<T>;
  Key found = 0;
  for (int bit = 8 * static_cast<int>(sizeof(Key)) - 1; bit >= 0; --bit) {
    const Key candidate = found | (Key(1) << bit);
    int reach = 0;
    for (int i = 0; i < count; ++i) reach += key(i) >= candidate ? 1 : 0;
    if (reach >= rank) found = candidate;
  }
  return found;
}

/// Calls take(i, chosen) once for each i of [0, count) in order; chosen are the `places` largest
/// keys, and among equal ones the first.
template <class T, class Keys, class Take>
KOKKOS_INLINE_FUNCTION void take_largest(int count, int places, const Keys& key,
                                         const Take& take) {
  if (places >= count || places <= 0) {
    for (int i = 0; i < count; ++i) take(i, places > 0);
    return;
  }
  const OrderKey<T> threshold = nth_largest_key<T>(count, places, key);
  int equal = places;
  for (int i = 0; i < count; ++i) equal -= key(i) > threshold ? 1 : 0;
  for (int i = 0; i < count; ++i) {
    const OrderKey<T> mine = key(i);
    take(i, mine > threshold || (mine == threshold && equal-- > 0));
  }
}

}  // namespace kokomoe::detail
