// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/route_over_ranks.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/rows_of.hpp"
#include "kokomoe/moe/capacity.hpp"
#include "kokomoe/moe/router_registry.hpp"
#include "kokomoe/moe/routing_groups.hpp"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

namespace kokomoe {

namespace {

/// Which of all ranks' tokens and sequences are this rank's.
struct Place {
  std::size_t first = 0, own = 0, all = 0;
  std::size_t first_sequence = 0, own_sequences = 0, all_sequences = 0;
  std::size_t ids = 0;  ///< of all ranks: none, or as many as tokens
  int max_length = 0;
};

Place find_place(const Communicator& ranks, const PackedTokens& tokens, std::size_t own) {
  struct Counts {
    std::int64_t tokens, sequences, ids, max_length;
  };
  const std::size_t sequences = tokens.sequence_offsets.extent(0);
  const Counts mine{static_cast<std::int64_t>(own),
                    static_cast<std::int64_t>(sequences > 0 ? sequences - 1 : 0),
                    static_cast<std::int64_t>(tokens.ids.extent(0)), tokens.max_length};
  std::vector<Counts> counts(static_cast<std::size_t>(ranks.size()));
  ranks.all_gather(&mine, sizeof mine, counts.data());
  Place place;
  place.own = own;
  place.own_sequences = static_cast<std::size_t>(mine.sequences);
  for (std::size_t r = 0; r < counts.size(); ++r) {
    if (r == static_cast<std::size_t>(ranks.rank())) {
      place.first = place.all;
      place.first_sequence = place.all_sequences;
    }
    place.all += static_cast<std::size_t>(counts[r].tokens);
    place.all_sequences += static_cast<std::size_t>(counts[r].sequences);
    place.ids += static_cast<std::size_t>(counts[r].ids);
    place.max_length = std::max(place.max_length, static_cast<int>(counts[r].max_length));
  }
  if (place.all > static_cast<std::size_t>(std::numeric_limits<int>::max()))
    fail("route_over_ranks", std::to_string(place.all) + " tokens in one micro-batch");
  return place;
}

/// Every rank's part of `columns` numbers a token: a sum to which each rank adds its own rows, and
/// elsewhere what changes no bit: -0, since 0 would make a 0 of a -0.
template <class To, class From>
Vector<To> gather_all(const StepContext& ctx, Arena& arena, const Place& place, std::size_t columns,
                      const Vector<const From>& own) {
  const Vector<To> all = arena.vector<To>(place.all * columns);
  const std::size_t begin = place.first * columns, end = begin + place.own * columns;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::route_over_ranks::gather"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, all.extent(0)),
      KOKKOS_LAMBDA(const std::size_t i) {
        all(i) = i < begin || i >= end ? -To(0) : static_cast<To>(own(i - begin));
      });
  ctx.communicator->all_reduce_sum(ctx.space, all);
  return all;
}

Vector<std::uint32_t> as_unsigned(const StepContext& ctx, const Vector<const int>& values) {
  const Vector<std::uint32_t> result = ctx.saved->vector<std::uint32_t>(values.extent(0));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::route_over_ranks::as_unsigned"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, values.extent(0)),
      KOKKOS_LAMBDA(const std::size_t i) { result(i) = static_cast<std::uint32_t>(values(i)); });
  return result;
}

/// Where all ranks' sequences begin.
Vector<int> gather_offsets(const StepContext& ctx, const Place& place) {
  const Vector<int> all = ctx.saved->vector<int>(place.all_sequences + 1);
  const Vector<const int> own = ctx.tokens.sequence_offsets;
  const std::size_t begin = place.first_sequence, end = begin + place.own_sequences;
  const int first = static_cast<int>(place.first);
  const int last = ctx.communicator->is_root() ? static_cast<int>(place.all) : 0;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::route_over_ranks::offsets"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, all.extent(0)),
      KOKKOS_LAMBDA(const std::size_t i) {
        const int elsewhere = i + 1 == all.extent(0) ? last : 0;
        all(i) = i < begin || i >= end ? elsewhere : first + own(i - begin);
      });
  ctx.communicator->all_reduce_sum(ctx.space, all);
  return all;
}

/// This step as one rank with all tokens has it. Without what belongs to losses: targets and
/// ctx.sequence_loss are for backward, which each rank does for its own tokens.
StepContext step_of_all(const StepContext& ctx, const Place& place) {
  StepContext all = ctx;
  all.sequence_loss = {};
  PackedTokens& tokens = all.tokens;
  tokens = PackedTokens();
  tokens.tokens = static_cast<int>(place.all);
  tokens.sequences = static_cast<int>(place.all_sequences);
  tokens.max_length = place.max_length;
  tokens.sequence_offsets = gather_offsets(ctx, place);
  tokens.position = gather_all<int, int>(ctx, *ctx.saved, place, 1, ctx.tokens.position);
  tokens.sequence_index = as_unsigned(
      ctx, gather_all<int, std::uint32_t>(ctx, *ctx.saved, place, 1, ctx.tokens.sequence_index));
  if (place.ids == place.all)
    tokens.ids = gather_all<int, int>(ctx, *ctx.saved, place, 1, ctx.tokens.ids);
  return all;
}

/// This rank's rows of something with a row, or `each` elements, for every token; nothing of what
/// is empty. What has other rows cannot be cut: a router that looks at groups must not have it.
template <class View>
View own_rows(const View& all, const Place& place, std::size_t each) {
  if (all.extent(0) == 0) return all;
  if (all.extent(0) != place.all * each)
    fail("route_over_ranks", std::to_string(all.extent(0)) + " rows of a routing of " +
                                 std::to_string(place.all) + " tokens are not theirs alone");
  return rows_of(all, place.first * each, (place.first + place.own) * each);
}

template <class T>
Routing<T> own_part(const StepContext& ctx, const Routing<T>& all, const Place& place) {
  const auto slots = static_cast<std::size_t>(all.slots());
  if (place.all == 0 || slots % place.all != 0)
    fail("route_over_ranks", std::to_string(slots) + " slots of " + std::to_string(place.all) +
                                 " tokens are in no token order");
  const std::size_t each = slots / place.all;
  Routing<T> own = all;
  own.tokens = static_cast<int>(place.own);
  own.token = ctx.saved->vector<int>(place.own * each);
  const Vector<int> token = own.token;
  const Vector<const int> all_tokens = own_rows(all.token, place, each);
  const int first = static_cast<int>(place.first);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::route_over_ranks::own"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, token.extent(0)),
      KOKKOS_LAMBDA(const std::size_t n) { token(n) = all_tokens(n) - first; });
  own.expert = own_rows(all.expert, place, each);
  own.weight = own_rows(all.weight, place, each);
  own.expert_gradient_weight = own_rows(all.expert_gradient_weight, place, each);
  own.counted = own_rows(all.counted, place, each);
  own.scale = own_rows(all.scale, place, each);
  own.dropped = own_rows(all.dropped, place, each);
  own.probability = own_rows(all.probability, place, 1);
  own.balance_probability = own_rows(all.balance_probability, place, 1);
  own.kept = own_rows(all.kept, place, 1);
  own.extra = own_rows(all.extra, place, 1);
  return own;
}

/// A router that looks at groups: every rank routes all tokens.
template <class T>
Routing<T> route_all(const StepContext& ctx, const Place& place, const Router<T>& router,
                     const MoeConfig& config, bool limited, const Matrix<const T>& z) {
  const std::size_t columns = z.extent(1);
  const Vector<T> logits =
      gather_all<T, T>(ctx, *ctx.saved, place, columns, Vector<const T>(z.data(), z.size()));
  const StepContext all = step_of_all(ctx, place);
  Routing<T> routing =
      router.route_logits(all, Matrix<T>(logits.data(), place.all, columns), nullptr);
  if (limited)
    apply_capacity<T>(all, RoutingGroups(all, config.routing_group), config.k,
                      config.capacity_factor, config.capacity_drop, routing);
  return own_part(ctx, routing, place);
}

/// A router that looks at each token by itself, in whose choices only a capacity sees the group:
/// the choices of all ranks suffice. Its losses, its noise and what else it has stay this rank's
/// own.
template <class T>
void limit_over_ranks(const StepContext& ctx, const Place& place, const MoeConfig& config,
                      Routing<T>& own) {
  if (own.slots_per_token == 0)
    fail("route_over_ranks", "a capacity needs fixed slots for each token");
  const auto each = static_cast<std::size_t>(own.slots_per_token);
  // A rank without tokens has nothing of either.
  const bool scaled = ctx.communicator->all_reduce_max(own.scale.extent(0) != 0) != 0;
  const bool thinned = ctx.communicator->all_reduce_max(own.dropped.extent(0) != 0) != 0;
  StepContext step = ctx;
  step.tokens = PackedTokens();
  step.tokens.tokens = static_cast<int>(place.all);
  ArenaScope scope(*ctx.scratch);
  Routing<T> all = make_token_choice<T>(ctx.space, *ctx.scratch, step.tokens.tokens, own.experts,
                                        own.slots_per_token);
  all.expert = gather_all<int, int>(ctx, *ctx.scratch, place, each, own.expert);
  all.weight = gather_all<T, T>(ctx, *ctx.scratch, place, each, own.weight);
  if (scaled) all.scale = gather_all<T, T>(ctx, *ctx.scratch, place, each, own.scale);
  if (thinned) {
    const Vector<int> dropped =
        gather_all<int, unsigned char>(ctx, *ctx.scratch, place, each, own.dropped);
    all.dropped = ctx.scratch->template vector<unsigned char>(dropped.extent(0));
    Kokkos::deep_copy(ctx.space, all.dropped, dropped);
  }
  apply_capacity<T>(step, RoutingGroups(step, config.routing_group), config.k,
                    config.capacity_factor, config.capacity_drop, all);
  own.dropped = own_rows(all.dropped, place, each);
}

}  // namespace

template <class T>
Routing<T> route_over_ranks(const StepContext& ctx, const Router<T>& router,
                            const MoeConfig& config, bool limited, const Matrix<const T>& z) {
  const Region region(KOKOMOE_LABEL("moe::route_over_ranks"));
  const Place place = find_place(*ctx.communicator, ctx.tokens, z.extent(0));
  if (router_info(config.router).batch_coupled)
    return route_all(ctx, place, router, config, limited, z);
  Routing<T> routing = router.route_logits(ctx, z, nullptr);
  if (limited) limit_over_ranks(ctx, place, config, routing);
  return routing;
}

template Routing<float> route_over_ranks<float>(const StepContext&, const Router<float>&,
                                                const MoeConfig&, bool, const Matrix<const float>&);
template Routing<double> route_over_ranks<double>(const StepContext&, const Router<double>&,
                                                  const MoeConfig&, bool,
                                                  const Matrix<const double>&);

}  // namespace kokomoe
