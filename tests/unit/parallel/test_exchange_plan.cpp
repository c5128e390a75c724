// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/parallel/exchange_plan.hpp"
#include "support/catch.hpp"

#include <cstdint>
#include <numeric>
#include <vector>

using namespace kokomoe;

namespace {

/// The plans of all ranks for rows counted in counts[rank][expert], as if they had told each other.
std::vector<ExchangePlan> plans(const std::vector<std::vector<int>>& counts, int chunks) {
  const int ranks = static_cast<int>(counts.size()), experts = static_cast<int>(counts[0].size());
  std::vector<ExchangePlan> all(counts.size());
  for (int r = 0; r < ranks; ++r) {
    ExchangePlan& plan = all[static_cast<std::size_t>(r)];
    plan.ranks = ranks;
    plan.rank = r;
    plan.chunks = chunks;
    plan.owned = owned_experts(experts, r, ranks);
    plan.counts = counts[static_cast<std::size_t>(r)];
    for (const auto& source : counts)
      for (int e = plan.owned.begin; e < plan.owned.end; ++e)
        plan.arrivals.push_back(source[static_cast<std::size_t>(e)]);
    plan.lay_out();
  }
  return all;
}

}  // namespace

TEST_CASE("every row sent is received, once, by the owner of its expert", "[exchange_plan]") {
  std::uint64_t state = 3;
  for (const int ranks : {1, 2, 3, 5}) {
    for (const int experts : {1, 2, 4, 7}) {
      for (const int chunks : {1, 2, 4}) {
        INFO(ranks << " ranks, " << experts << " experts, " << chunks << " chunks");
        std::vector<std::vector<int>> counts(static_cast<std::size_t>(ranks),
                                             std::vector<int>(static_cast<std::size_t>(experts)));
        for (auto& row : counts)
          for (int& count : row) {
            state = state * 6364136223846793005ull + 1442695040888963407ull;
            count = static_cast<int>(state >> 61) % 5;  // zeros too
          }
        const auto all = plans(counts, chunks);
        for (int p = 0; p < ranks; ++p) {
          const ExchangePlan& from = all[static_cast<std::size_t>(p)];
          CHECK(from.rows_sent() ==
                std::accumulate(from.send_counts.begin(), from.send_counts.end(), 0));
          std::vector<int> taken(static_cast<std::size_t>(from.rows_sent()), 0);
          for (int q = 0; q < ranks; ++q) {
            const ExchangePlan& to = all[static_cast<std::size_t>(q)];
            for (int c = 0; c < chunks; ++c) {
              const auto out = static_cast<std::size_t>(c * ranks + q);
              const auto in = static_cast<std::size_t>(c * ranks + p);
              CHECK(from.send_counts[out] == to.receive_counts[in]);
              // Rows lie by global expert: those of this part must be of q's experts in it.
              int row = 0;
              for (int e = 0; e < to.owned.begin + to.first_expert(c); ++e)
                row += from.counts[static_cast<std::size_t>(e)];
              if (from.send_counts[out] > 0) CHECK(from.send_offsets[out] == row);
              for (int i = 0; i < from.send_counts[out]; ++i)
                ++taken[static_cast<std::size_t>(from.send_offsets[out] + i)];
            }
          }
          CHECK(taken == std::vector<int>(taken.size(), 1));
          // Arrived rows fill their memory without gaps, part after part.
          int place = 0;
          for (std::size_t i = 0; i < from.receive_counts.size(); ++i) {
            CHECK(from.receive_offsets[i] == place);
            place += from.receive_counts[i];
          }
          CHECK(place == from.rows_received());
          CHECK(from.expert_offsets.size() == static_cast<std::size_t>(from.owned.size()) + 1);
        }
      }
    }
  }
}

TEST_CASE("parts of one local expert arrive sorted", "[exchange_plan]") {
  const std::vector<std::vector<int>> counts{{1, 2, 3, 4}, {4, 3, 2, 1}};
  const auto whole = plans(counts, 1), each = plans(counts, 2);
  CHECK(whole[0].sorted_on_arrival == std::vector<unsigned char>{0});
  CHECK(each[0].sorted_on_arrival == std::vector<unsigned char>{1, 1});
  CHECK(each[1].expert_offsets == std::vector<int>{0, 5, 10});
}
