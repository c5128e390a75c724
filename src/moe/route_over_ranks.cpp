// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/route_over_ranks.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/rows_of.hpp"
#include "kokomoe/moe/capacity.hpp"
#include "kokomoe/moe/routing_groups.hpp"

#include <limits>
#include <string>
#include <vector>

namespace kokomoe {

namespace {

/// Which of all ranks' tokens are this rank's.
struct Place {
  std::size_t first = 0, own = 0, all = 0;
};

Place find_place(const Communicator& ranks, std::size_t own) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(ranks.size()));
  const auto mine = static_cast<std::int64_t>(own);
  ranks.all_gather(&mine, sizeof mine, counts.data());
  Place place{0, own, 0};
  for (std::size_t r = 0; r < counts.size(); ++r) {
    if (r < static_cast<std::size_t>(ranks.rank())) place.first += static_cast<std::size_t>(counts[r]);
    place.all += static_cast<std::size_t>(counts[r]);
  }
  if (place.all > static_cast<std::size_t>(std::numeric_limits<int>::max()))
    fail("route_over_ranks", std::to_string(place.all) + " tokens in one micro-batch");
  return place;
}

/// Every rank's part of `columns` numbers a token: a sum to which each rank adds its own rows, and
/// zeros elsewhere, so that it is exact.
template <class To, class From>
Vector<To> gather_all(const StepContext& ctx, const Place& place, std::size_t columns,
                      const Vector<const From>& own) {
  const Vector<To> all = ctx.saved->vector<To>(place.all * columns);
  const std::size_t begin = place.first * columns, end = begin + place.own * columns;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::route_over_ranks::gather"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, all.extent(0)),
      KOKKOS_LAMBDA(const std::size_t i) {
        all(i) = i < begin || i >= end ? To(0) : static_cast<To>(own(i - begin));
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

/// This rank's rows of something with a row, or `each` elements, for every token.
template <class View>
View own_rows(const View& all, const Place& place, std::size_t each) {
  if (all.extent(0) != place.all * each) return all;
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

}  // namespace

template <class T>
Routing<T> route_over_ranks(const StepContext& ctx, const Router<T>& router,
                            const MoeConfig& config, bool limited, const Matrix<const T>& z) {
  const Region region(KOKOMOE_LABEL("moe::route_over_ranks"));
  const Place place = find_place(*ctx.communicator, z.extent(0));
  const std::size_t columns = z.extent(1);
  const Vector<T> logits =
      gather_all<T, T>(ctx, place, columns, Vector<const T>(z.data(), z.size()));
  StepContext all = ctx;
  all.tokens = PackedTokens();
  all.tokens.tokens = static_cast<int>(place.all);
  all.tokens.position = gather_all<int, int>(ctx, place, 1, ctx.tokens.position);
  all.tokens.sequence_index = as_unsigned(
      ctx, gather_all<int, std::uint32_t>(ctx, place, 1, ctx.tokens.sequence_index));
  Routing<T> routing =
      router.route_logits(all, Matrix<T>(logits.data(), place.all, columns), nullptr);
  if (limited)
    apply_capacity<T>(all, RoutingGroups(all, config.routing_group), config.k,
                      config.capacity_factor, config.capacity_drop, routing);
  return own_part(ctx, routing, place);
}

template Routing<float> route_over_ranks<float>(const StepContext&, const Router<float>&,
                                                const MoeConfig&, bool,
                                                const Matrix<const float>&);
template Routing<double> route_over_ranks<double>(const StepContext&, const Router<double>&,
                                                  const MoeConfig&, bool,
                                                  const Matrix<const double>&);

}  // namespace kokomoe
