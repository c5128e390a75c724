// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/activation.hpp"
#include "kokomoe/moe/expert_kernels.hpp"
#include "kokomoe/moe/router_registry.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace kokomoe {

/// Over which tokens the load-balance loss takes its fractions and means.
enum class BalanceScope {
  global,       ///< the micro-batch over all data-parallel ranks
  micro_batch,  ///< this rank's part of it
  sequence      ///< each sequence by itself
};

/// "global", "micro_batch" or "sequence"; throws InputError.
BalanceScope parse_balance_scope(const std::string& name);

/// Which assignments an expert over its capacity gives up.
enum class CapacityDrop {
  position,    ///< later choices first, then later tokens
  probability  ///< smaller weights first
};

/// "position" or "probability"; throws InputError.
CapacityDrop parse_capacity_drop(const std::string& name);

struct MoeConfig {
  int d_model = 0;   ///< d
  int d_hidden = 0;  ///< h of each expert
  int experts = 1;   ///< E
  int k = 1;
  Activation activation = Activation::relu;
  bool bias = false;
  /// A learned gain omega (d), ones at first, multiplies the layer's output (SparseMixer's).
  bool output_gain = false;
  std::string router = "sparsemixer";
  RouterOptions options{};
  double balance = 0.01;  ///< alpha of the load-balance loss
  BalanceScope balance_scope = BalanceScope::global;
  double z_loss = 0;  ///< c of the z-loss
  /// An expert takes at most min(max(ceil(T k factor / E), 1), T) of the T tokens of a routing
  /// group; the others of its assignments are dropped. 0 = no limit.
  double capacity_factor = 0;
  CapacityDrop capacity_drop = CapacityDrop::position;
  int routing_group = 0;  ///< tokens that capacity and batch-coupled routers see; 0 = a sequence
  /// Routing groups are runs of the tokens of all ranks, in rank order, not of this rank's alone.
  bool group_over_ranks = false;
  int shared_experts = 0;   ///< always on, added to the routed sum
  double output_scale = 1;  ///< multiplies the deviation of w2's initial values
  ExpertKernels kernels = ExpertKernels::automatic;
  /// Backward runs the experts forward once more instead of keeping their hidden layers, what
  /// arrived from other ranks and what the gain was applied to: a third more work in the experts.
  bool recompute = false;
  /// Products of the routed experts read weights rounded to bfloat16, from a copy; updates go to
  /// the weights themselves. Runs with blocks of rows alone.
  bool round_weights = false;
  bool causal = false;        ///< the model's outputs may not depend on later tokens
  bool allow_future = false;  ///< let them all the same
  int vocabulary = 0;         ///< V, for routers by token id
  std::shared_ptr<const std::vector<std::int64_t>> token_counts{};  ///< (V), for such routers
};

/// Sets what `config.router` has defaults of its own for: k, balance, its scope, the output gain.
void set_router_defaults(MoeConfig& config);

/// The one rule about what goes together: the first impossible combination of a configuration, or
/// nothing. Throws InputError for unknown routers and options.
std::optional<Refusal> impossible(const MoeConfig& config);

/// Whether tokens are chosen for in groups, by the router or a capacity, so that routing_group
/// counts.
bool looks_at_groups(const MoeConfig& config);

/// Where the router of a layer stands.
RouterPlace router_place(const MoeConfig& config, int layer, const std::string& name);

}  // namespace kokomoe
