// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/philox.hpp"
#include "kokomoe/nn/attention_kernel.hpp"

namespace kokomoe::detail {

/// What the kernels know of one sequence and head.
template <class T>
struct AttentionHead {
  const AttentionInput<T>& in;
  int sequence, head, query_begin, queries, key_begin, keys;

  KOKKOS_INLINE_FUNCTION AttentionHead(const AttentionInput<T>& input, int b, int h)
      : in(input), sequence(b), head(h) {
    query_begin = in.query_offsets(b);
    queries = in.query_offsets(b + 1) - query_begin;
    key_begin = in.key_offsets(b);
    keys = in.key_count.extent(0) != 0 ? in.key_count(b) : in.key_offsets(b + 1) - key_begin;
  }
  KOKKOS_INLINE_FUNCTION const T* query(int i) const {
    return &in.query(query_begin + i, in.query_column + head * in.width);
  }
  KOKKOS_INLINE_FUNCTION const T* key(int j) const {
    return &in.key(key_begin + j, in.key_column + head * in.width);
  }
  KOKKOS_INLINE_FUNCTION const T* value(int j) const {
    return &in.value(key_begin + j, in.value_column + head * in.width);
  }
  /// Keys that query i sees.
  KOKKOS_INLINE_FUNCTION int visible(int i) const {
    if (!in.causal) return keys;
    const int limit = in.position(query_begin + i) + 1;
    return limit < keys ? limit : keys;
  }
};

/// Factors 0 or 1 / (1 - rate) on the probabilities of one query and head.
template <class T>
struct AttentionDropout {
  PhiloxStream stream;
  Vector<const std::uint32_t> sequence;
  Vector<const int> position;
  T rate = 0;
  std::uint32_t lane;  ///< above the head's bits

  AttentionDropout(const StepContext& ctx, const AttentionInput<T>& input)
      : stream(ctx.seed, Purpose::attention_dropout, ctx.step,
               static_cast<std::uint32_t>(input.layer), ctx.replica),
        sequence(ctx.tokens.sequence_index),
        position(ctx.tokens.position),
        rate(ctx.training ? static_cast<T>(input.dropout) : T(0)),
        lane(static_cast<std::uint32_t>(input.lane) << 16) {}

  /// Of keys [first_key, first_key + keys), both multiples of four.
  KOKKOS_INLINE_FUNCTION void apply(int token, int head, int first_key, int keys,
                                    T* probability) const {
    if (rate == T(0)) return;
    for (int j = 0; j < keys; j += 4) {
      const PhiloxBlock draws = stream.block(
          sequence(token), static_cast<std::uint32_t>(position(token)),
          static_cast<std::uint32_t>((first_key + j) / 4), lane | static_cast<std::uint32_t>(head));
      for (int i = 0; i < 4; ++i)
        probability[j + i] *= open_uniform<T>(draws.word[i]) > rate ? T(1) / (T(1) - rate) : T(0);
    }
  }
};

}  // namespace kokomoe::detail
