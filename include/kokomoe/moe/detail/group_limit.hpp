// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/router_registry.hpp"
#include "kokomoe/parallel/step_context.hpp"

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace kokomoe::detail {

/// `groups`, `group_limit` and `group_score` of a top-k router.
inline std::vector<RouterOption> group_options(const std::string& score) {
  return {{"groups", std::int64_t(1), "groups of consecutive experts, for a group limit", 1, 65536},
          {"group_limit", std::int64_t(0),
           "a token's experts lie in at most so many groups, the best ones; 0 = no limit", 0, 65536},
          {"group_score", score,
           "a group is as good as the sum of its k / group_limit best experts (sum, DeepSeek-V3) or "
           "as its best one (best, DeepSeek-V2)",
           0, 0, {"sum", "best"}}};
}

/// RouterInfo::check of routers with these options.
inline std::optional<Refusal> check_groups(const RouterPlace& place, const RouterOptions& options) {
  const std::int64_t groups = options.integer("groups"), limit = options.integer("group_limit");
  if (place.experts % groups != 0)
    return Refusal{"groups", std::to_string(groups) + " groups do not divide " +
                                 std::to_string(place.experts) + " experts"};
  if (limit > groups)
    return Refusal{"group_limit", std::to_string(limit) + " groups of " + std::to_string(groups)};
  if (limit > 0 && place.k > limit * (place.experts / groups))
    return Refusal{"group_limit", "k = " + std::to_string(place.k) + " experts do not fit into " +
                                      std::to_string(limit) + " groups of " +
                                      std::to_string(place.experts / groups)};
  return std::nullopt;
}

/// Keeps each token's experts in g of G groups (device-limited routing of DeepSeek-V2, arXiv
/// 2405.04434, section 2.1.3; node-limited routing of V3, arXiv 2412.19437, section 2.1.2).
struct GroupLimit {
  int groups = 1, limit = 1;
  int size = 0;    ///< experts of a group
  int summed = 1;  ///< best experts whose scores make a group's

  GroupLimit(const RouterPlace& place, const RouterOptions& options)
      : groups(static_cast<int>(options.integer("groups"))),
        limit(static_cast<int>(options.integer("group_limit"))),
        size(place.experts / groups) {
    if (limit == 0) limit = groups;
    if (options.text("group_score") == "sum") summed = (place.k + limit - 1) / limit;
  }
  /// All experts in one group.
  explicit GroupLimit(int experts) : size(experts) {}

  bool active() const { return limit < groups; }
};

/// A group limit inside a kernel, with its memory.
template <class T>
struct GroupChoice {
  GroupLimit limit;
  bool active;
  Matrix<T> score;             ///< (T, G); empty when not active
  Matrix<unsigned char> kept;  ///< (T, G)

  GroupChoice(const StepContext& ctx, const GroupLimit& limit_, std::size_t tokens)
      : limit(limit_), active(limit_.active()) {
    if (!active) return;
    const auto groups = static_cast<std::size_t>(limit.groups);
    score = ctx.scratch->template matrix<T>(tokens, groups);
    kept = ctx.scratch->template matrix<unsigned char>(tokens, groups);
  }

  /// Marks the g best groups of token t by value(e); ties go to the lowest group.
  template <class Value>
  KOKKOS_INLINE_FUNCTION void choose(int t, const Value& value) const {
    if (!active) return;
    for (int g = 0; g < limit.groups; ++g) {
      score(t, g) = group_score(g * limit.size, value);
      kept(t, g) = 0;
    }
    for (int i = 0; i < limit.limit; ++i) {
      int best = -1;
      for (int g = 0; g < limit.groups; ++g)
        if (kept(t, g) == 0 && (best < 0 || score(t, g) > score(t, best))) best = g;
      kept(t, best) = 1;
    }
  }

  KOKKOS_INLINE_FUNCTION bool allows(int t, int e) const {
    return !active || kept(t, e / limit.size) != 0;
  }

 private:
  /// Sum of the largest values of experts [begin, begin + size); NaN is none of them.
  template <class Value>
  KOKKOS_INLINE_FUNCTION T group_score(int begin, const Value& value) const {
    T sum = -Kokkos::Experimental::infinity_v<T>;
    int last = -1;
    for (int i = 0; i < limit.summed; ++i) {
      // The next in the order of falling values and, among equals, rising places.
      int next = -1;
      for (int e = begin; e < begin + limit.size; ++e) {
        if (value(e) != value(e)) continue;
        if (last >= 0 && (value(e) > value(last) || (value(e) == value(last) && e <= last)))
          continue;
        if (next < 0 || value(e) > value(next)) next = e;
      }
      if (next < 0) break;
      sum = i == 0 ? value(next) : sum + value(next);
      last = next;
    }
    return sum;
  }
};

}  // namespace kokomoe::detail
