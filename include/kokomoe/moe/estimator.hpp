// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/types.hpp"

namespace kokomoe {

/// The law of s in weight = s p of a sampled gate: 1, or with probability `low_chance` the value
/// `low`, or, when `uniform`, a draw from U(0, 1) in its place. One law, read by the kernels that
/// draw from it and by the studies that enumerate it.
struct ScaleLaw {
  double low = 1;
  double low_chance = 0;
  bool uniform = false;
  /// The argmax of its round always takes s = 1.
  bool argmax_exception = false;

  /// s for a coin u in (0, 1).
  template <class T>
  KOKKOS_INLINE_FUNCTION T draw(T u, bool is_argmax) const {
    const T chance = static_cast<T>(low_chance);
    if (u > chance || (argmax_exception && is_argmax)) return T(1);
    return uniform ? u / chance : static_cast<T>(low);
  }
};

/// What a router's gradient estimates.
enum class Objective {
  none,    ///< nothing is drawn: its gradient is of what it computes
  scaled,  ///< A: the mean of f(p_D E_D) over D ~ p
  plain    ///< B: the mean of f(E_D) over D ~ p
};

/// How a study enumerates a router's outcomes for one token: for `scaled`, replay with `expert`
/// set to (D_1..D_k), `scale` to (s_1..s_k); at s = 1 the weights are the probabilities of each
/// round's draw, whose product is the outcome's. For `plain` there are E slots a token, `scale` is
/// one-hot in D and `probability` holds p.
struct EstimatorInfo {
  Objective objective = Objective::none;
  ScaleLaw scale{};
  bool needs_sequence_loss = false;  ///< reads ctx.sequence_loss in backward
};

}  // namespace kokomoe
