// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/philox.hpp"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace kokomoe::detail {

/// `order` = a permutation of [0, n), by keys drawn from (seed, lane, epoch) for purpose `batch`.
/// `key` is working space.
inline void draw_order(std::uint64_t seed, std::uint32_t lane, std::uint64_t epoch, std::size_t n,
                       std::vector<std::uint64_t>& key, std::vector<std::uint32_t>& order) {
  const PhiloxStream stream(seed, Purpose::batch, epoch, lane, 0);
  key.resize(n);
  for (std::size_t i = 0; i < n; ++i) {
    const PhiloxBlock draw = stream.block(static_cast<std::uint32_t>(i), 0, 0);
    key[i] = static_cast<std::uint64_t>(draw.word[1]) << 32 | draw.word[0];
  }
  order.resize(n);
  std::iota(order.begin(), order.end(), 0U);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    return key[a] < key[b] || (key[a] == key[b] && a < b);
  });
}

}  // namespace kokomoe::detail
