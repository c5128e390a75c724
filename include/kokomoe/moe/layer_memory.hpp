// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/experts.hpp"
#include "kokomoe/moe/moe_config.hpp"

namespace kokomoe {

/// What a layer and its parts take from the arenas. Each router and each way to multiply keeps what
/// it likes: small ones are run here and looked at, so that no second description can grow stale.

/// Of one token.
struct RoutingMemory {
  double saved = 0;    ///< bytes: logits, routing
  double scratch = 0;  ///< bytes, on the way forward
  double slots = 0;
  double rows = 0;                  ///< assignments that run, unless a capacity drops them
  bool gives_gain_gradient = true;  ///< see Router
};

/// Routes random tokens of one sequence, at most `sequence_length`, by config.router. Where k is
/// what training aims at, rows is k. T: float, double.
template <class T>
RoutingMemory measure_routing(const MoeConfig& config, int sequence_length);

/// Bytes for n rows.
struct RowMemory {
  double row = 0;
  double fixed = 0;
  double at(double rows) const { return row * rows + fixed; }
};

struct ExpertsMemory {
  RowMemory saved;
  RowMemory forward, backward;  ///< scratch
};

/// Bytes for some tokens and the rows that they become.
struct TokenMemory {
  double token = 0;
  double row = 0;
  double fixed = 0;
  double at(double tokens, double rows) const { return token * tokens + row * rows + fixed; }
};

struct LayerMemory {
  TokenMemory saved;              ///< but for what RoutingMemory has
  TokenMemory recomputed;         ///< of `saved` too, but of one layer at a time, in backward
  TokenMemory forward, backward;  ///< scratch, but for what grows with the number of experts
};

/// Runs experts of the same proportions, small ones where config's are large. `how`: but for the
/// segments.
template <class T>
ExpertsMemory measure_experts(const ExpertsConfig& config, const RowArithmetic& how);

/// The same of a whole layer that has all its experts on this rank.
template <class T>
LayerMemory measure_layer(const MoeConfig& config, const RowArithmetic& how);

}  // namespace kokomoe
