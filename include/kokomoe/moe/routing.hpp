// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/arena.hpp"
#include "kokomoe/core/types.hpp"

namespace kokomoe {

/// What a router decided for T tokens and E experts, as N assignment slots in coordinate form:
/// slot n sends token[n] to expert[n] and scales that expert's output by weight[n]. A slot that
/// is not used carries expert = E. Token choice has N = T k, expert choice E C, dense forms T E;
/// dispatch, experts and combine know no other form. Views live in the arena that made them.
template <class T>
struct Routing {
  int tokens = 0;   ///< T
  int experts = 0;  ///< E
  /// k when slot n belongs to token n / k for every n; 0 when slots come in any order.
  int slots_per_token = 0;

  Vector<int> token;    ///< (N)
  Vector<int> expert;   ///< (N), E = unused
  Vector<T> weight;     ///< (N) forward weight
  /// (N) what the expert's output gradient is scaled by; empty = `weight`.
  Vector<T> expert_gradient_weight;

  /// (T, E) probabilities that the choice was made from; 0 where masked. The load-balance loss
  /// averages these unless `balance_probability` is given.
  Matrix<T> probability;
  Matrix<T> balance_probability;
  /// (N) 1 = load and load-balance loss count this slot, where that is not every chosen one (first
  /// choices only; one expert of many that run); empty = all chosen, dropped ones too.
  Vector<unsigned char> counted;
  Matrix<unsigned char> kept;  ///< (T, E), (T, k E) by rounds: 1 = took part; empty = all did
  Vector<T> scale;             ///< (N) s of weight = s p, where the router draws one; else empty
  /// (N) 1 = chosen, but not run (over capacity, or a second choice that lost its draw); empty =
  /// all run. `expert` keeps what was chosen, so that a replay can compute the weight again.
  Vector<unsigned char> dropped;
  Matrix<T> extra;             ///< what else this router's backward needs, in its own form

  int slots() const { return static_cast<int>(token.extent(0)); }
  /// The experts that run: `expert`, and E where `dropped`. Takes memory only when some may be.
  Vector<const int> running(const ExecutionSpace& space, Arena& arena) const;

  /// A deep copy in memory of its own, to be replayed after the arena was reset.
  Routing clone(const ExecutionSpace& space) const;
};

/// Slots of token choice: token[n] = n / k, everything else left to the router.
template <class T>
Routing<T> make_token_choice(const ExecutionSpace& space, Arena& arena, int tokens, int experts,
                             int k);

}  // namespace kokomoe
