// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/philox.hpp"
#include "kokomoe/moe/router_options.hpp"
#include "kokomoe/parallel/step_context.hpp"

namespace kokomoe::detail {

inline RouterOption jitter_option() {
  return {"jitter", 0.0, "in training, logits are multiplied by U(1 - jitter, 1 + jitter)", 0, 1};
}

/// The factor on logit (t, e): 1 - eps + 2 eps u in training, else 1. Drawn anew in backward.
template <class T>
struct Jitter {
  Vector<const std::uint32_t> sequence;
  Vector<const int> position;
  PhiloxStream stream;
  T eps;

  Jitter(const StepContext& ctx, const PhiloxStream& stream_, double jitter)
      : sequence(ctx.tokens.sequence_index),
        position(ctx.tokens.position),
        stream(stream_),
        eps(ctx.training ? static_cast<T>(jitter) : T(0)) {}

  KOKKOS_INLINE_FUNCTION T factor(int t, int e) const {
    if (eps == T(0)) return T(1);
    const T u = stream.template uniform<T>(sequence(t), static_cast<std::uint32_t>(position(t)),
                                  static_cast<std::uint32_t>(e));
    return T(1) - eps + T(2) * eps * u;
  }
};

}  // namespace kokomoe::detail
