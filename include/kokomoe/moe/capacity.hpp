// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/moe_config.hpp"
#include "kokomoe/moe/routing_groups.hpp"

namespace kokomoe {

/// Marks as `dropped` the assignments by which experts exceed their capacity (see
/// MoeConfig::capacity_factor) inside each group. `routing` has `slots_per_token` slots a token,
/// best first; those already dropped or unused take no place. By position, all first choices are
/// placed before any second one (GShard, arXiv 2006.16668, algorithm 1); by probability, larger
/// weights first, and among equal ones by position.
template <class T>
void apply_capacity(const StepContext& ctx, const RoutingGroups& groups, int k, double factor,
                    CapacityDrop drop, Routing<T>& routing);

}  // namespace kokomoe
