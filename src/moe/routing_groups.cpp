// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routing_groups.hpp"

#include "kokomoe/core/error.hpp"

namespace kokomoe {

RoutingGroups::RoutingGroups(const StepContext& ctx, int size_)
    : offsets(ctx.tokens.sequence_offsets), size(size_), tokens(ctx.tokens.tokens) {
  if (size == 0) {
    count = ctx.tokens.sequences;
    return;
  }
  if (ctx.training && tokens % size != 0)
    throw InputError("a routing group of " + std::to_string(size) + " tokens does not divide the " +
                     std::to_string(tokens) + " tokens of this rank's micro-batch");
  count = tokens / size + (tokens % size != 0 ? 1 : 0);
}

RoutingGroups RoutingGroups::whole(const StepContext& ctx) {
  RoutingGroups groups;
  groups.tokens = ctx.tokens.tokens;
  groups.size = groups.tokens > 0 ? groups.tokens : 1;
  groups.count = groups.tokens > 0 ? 1 : 0;
  return groups;
}

}  // namespace kokomoe
