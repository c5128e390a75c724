// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/moe_config.hpp"

#include "kokomoe/core/error.hpp"

namespace kokomoe {

BalanceScope parse_balance_scope(const std::string& name) {
  if (name == "global") return BalanceScope::global;
  if (name == "micro_batch") return BalanceScope::micro_batch;
  if (name == "sequence") return BalanceScope::sequence;
  throw InputError("unknown balance scope \"" + name +
                   "\": choose global, micro_batch or sequence");
}

CapacityDrop parse_capacity_drop(const std::string& name) {
  if (name == "position") return CapacityDrop::position;
  if (name == "probability") return CapacityDrop::probability;
  throw InputError("unknown capacity drop \"" + name + "\": choose position or probability");
}

void set_router_defaults(MoeConfig& config) {
  const RouterDefaults& defaults = router_info(config.router).defaults;
  config.k = defaults.k;
  config.balance = defaults.balance;
  config.balance_scope = parse_balance_scope(defaults.balance_scope);
  config.output_gain = defaults.output_gain;
}

bool looks_at_groups(const MoeConfig& config) {
  return config.capacity_factor > 0 || router_info(config.router).batch_coupled;
}

RouterPlace router_place(const MoeConfig& config, int layer, const std::string& name) {
  return {config.d_model,
          config.experts,
          config.k,
          layer,
          name,
          config.routing_group,
          config.vocabulary,
          config.token_counts,
          config.capacity_factor};
}

std::optional<Refusal> impossible(const MoeConfig& config) {
  const RouterInfo& router = router_info(config.router);
  const std::string who = "router \"" + config.router + "\" ";
  if (config.balance != 0 && !router.balance_loss)
    return Refusal{"balance", who + "balances by itself: say moe/balance=0, not " +
                                  std::to_string(config.balance)};
  if (config.z_loss != 0 && !router.logits)
    return Refusal{"z_loss", who + "has no logits: z_loss must be 0"};
  if (config.capacity_factor > 0 && !router.takes_capacity && !router.own_capacity)
    return Refusal{"capacity_factor", who + "has no assignments that a capacity could drop"};
  if (config.causal && !config.allow_future) {
    const std::string leak =
        " looks at other tokens of the batch, later ones too, which a causal model must not see; "
        "set moe/allow_future = true to allow it";
    if (router.batch_coupled) return Refusal{"router", who + leak.substr(1)};
    if (config.capacity_factor > 0) return Refusal{"capacity_factor", "a capacity" + leak};
  }
  if (config.round_weights && !by_blocks(config.kernels, false))
    return Refusal{"weights",
                   "bfloat16 is read by blocks of rows alone, and these experts run as " +
                       to_string(config.kernels) +
                       " (parallel/expert_kernels = \"blocks\", where it can be)"};
  return impossible_router(config.router, router_place(config, 0, "router"), config.options);
}

}  // namespace kokomoe
