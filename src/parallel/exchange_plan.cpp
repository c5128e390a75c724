// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/parallel/exchange_plan.hpp"

#include "kokomoe/core/error.hpp"

#include <cstdint>
#include <limits>
#include <numeric>
#include <string>

namespace kokomoe {

int ExchangePlan::rows_sent() const {
  return std::accumulate(counts.begin(), counts.end(), 0);
}

void ExchangePlan::lay_out() {
  const auto local = static_cast<std::size_t>(owned.size());
  const auto sources = static_cast<std::size_t>(ranks);
  const std::size_t cells = sources * static_cast<std::size_t>(chunks);

  expert_offsets.assign(local + 1, 0);
  std::int64_t rows = 0;
  for (std::size_t e = 0; e < local; ++e) {
    for (std::size_t p = 0; p < sources; ++p) rows += arrivals[p * local + e];
    if (rows > std::numeric_limits<int>::max())
      fail("ExchangePlan", "more than 2^31 - 1 rows for the experts of rank " +
                               std::to_string(rank) + ": use smaller micro-batches");
    expert_offsets[e + 1] = static_cast<int>(rows);
  }

  send_counts.assign(cells, 0);
  send_offsets.assign(cells, 0);
  receive_counts.assign(cells, 0);
  receive_offsets.assign(cells, 0);
  sorted_on_arrival.assign(static_cast<std::size_t>(chunks), 1);
  int sent = 0;
  for (int q = 0; q < ranks; ++q) {
    const ExpertRange block = owned_experts(owned.total, q, ranks);
    for (int c = 0; c < chunks; ++c) {
      const std::size_t cell = static_cast<std::size_t>(c * ranks + q);
      send_offsets[cell] = sent;
      for (int e = chunk_begin(block, c); e < chunk_begin(block, c + 1); ++e)
        send_counts[cell] += counts[static_cast<std::size_t>(block.begin + e)];
      sent += send_counts[cell];
    }
  }
  int received = 0;
  for (int c = 0; c < chunks; ++c) {
    if (ranks > 1 && first_expert(c + 1) - first_expert(c) > 1)
      sorted_on_arrival[static_cast<std::size_t>(c)] = 0;
    for (int p = 0; p < ranks; ++p) {
      const std::size_t cell = static_cast<std::size_t>(c * ranks + p);
      receive_offsets[cell] = received;
      for (int e = first_expert(c); e < first_expert(c + 1); ++e)
        receive_counts[cell] += arrivals[static_cast<std::size_t>(p) * local + static_cast<std::size_t>(e)];
      received += receive_counts[cell];
    }
  }
}

}  // namespace kokomoe
