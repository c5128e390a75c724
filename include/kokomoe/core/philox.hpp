// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/types.hpp"

#include <Random123/philox.h>

#include <cstdint>
#include <type_traits>

namespace kokomoe {

/// What a draw is for: draws of different purposes are independent.
enum class Purpose : std::uint32_t {
  initialization = 0,
  gumbel = 1,
  coin = 2,
  jitter = 3,
  dropout = 4,
  attention_dropout = 5,
  batch = 6,
  generation = 7,
  noise = 8,
  second_choice = 9,
  masking = 10,
  replacement = 11,
};

/// Four 32-bit words of Philox4x32-10 (Salmon et al. 2011, Random123).
struct PhiloxBlock {
  std::uint32_t word[4];
};

KOKKOS_INLINE_FUNCTION PhiloxBlock philox(std::uint32_t c0, std::uint32_t c1, std::uint32_t c2,
                                          std::uint32_t c3, std::uint32_t k0, std::uint32_t k1) {
  const r123::Philox4x32::ctr_type counter = {{c0, c1, c2, c3}};
  const r123::Philox4x32::key_type key = {{k0, k1}};
  const r123::Philox4x32::ctr_type r = r123::Philox4x32()(counter, key);
  return {{r[0], r[1], r[2], r[3]}};
}

/// 32 random bits as a number in the OPEN interval (0, 1): a draw of 0 or 1 would make an expert
/// win or lose for certain. double: (r + 1/2) 2^-32; float: (floor(r / 2^9) + 1/2) 2^-23.
template <class T>
KOKKOS_INLINE_FUNCTION T open_uniform(std::uint32_t bits) {
  if constexpr (std::is_same_v<T, float>) {
    return (static_cast<float>(bits >> 9) + 0.5f) * 0x1p-23f;
  } else {
    return (static_cast<T>(bits) + T(0.5)) * T(0x1p-32);
  }
}

/// Draws of one purpose in one layer and step. The 128 + 64 bits:
///   key     k0 = seed[0:32)              k1 = purpose (8) | lane (16) << 8 | seed[32:40) << 24
///   counter c0 = step (32)               c1 = global sequence index (32)
///           c2 = position (24) | layer (8) << 24     c3 = draw / 4 (16) | replica (16) << 16
/// so seed < 2^40, step and sequence index < 2^32, position < 2^24, layer < 2^8, draw < 2^18,
/// replica and lane < 2^16. `lane` is a second index where one is needed (an attention head).
/// A draw depends on nothing else: not on threads, ranks, micro-batches or the other draws.
struct PhiloxStream {
  std::uint32_t key0 = 0;
  std::uint32_t key1 = 0;
  std::uint32_t step = 0;
  std::uint32_t layer_bits = 0;
  std::uint32_t replica_bits = 0;

  PhiloxStream() = default;
  PhiloxStream(std::uint64_t seed, Purpose purpose, std::uint64_t step_, std::uint32_t layer,
               std::uint32_t replica)
      : key0(static_cast<std::uint32_t>(seed)),
        key1(static_cast<std::uint32_t>(purpose) |
             static_cast<std::uint32_t>((seed >> 32) & 0xffu) << 24),
        step(static_cast<std::uint32_t>(step_)),
        layer_bits(layer << 24),
        replica_bits(replica << 16) {}

  KOKKOS_INLINE_FUNCTION PhiloxBlock block(std::uint32_t sequence, std::uint32_t position,
                                           std::uint32_t index, std::uint32_t lane = 0) const {
    return philox(step, sequence, position | layer_bits, index | replica_bits, key0,
                  key1 | lane << 8);
  }

  /// Draw number `draw` of a token, in (0, 1).
  template <class T>
  KOKKOS_INLINE_FUNCTION T uniform(std::uint32_t sequence, std::uint32_t position,
                                   std::uint32_t draw, std::uint32_t lane = 0) const {
    return open_uniform<T>(block(sequence, position, draw / 4, lane).word[draw % 4]);
  }
};

/// FNV-1a of a name, which keys a tensor's initial values.
constexpr std::uint64_t name_hash(const char* text) {
  std::uint64_t hash = 14695981039346656037ull;
  for (; *text != '\0'; ++text) hash = (hash ^ static_cast<unsigned char>(*text)) * 1099511628211ull;
  return hash;
}

}  // namespace kokomoe
