// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/exchange_slot.hpp"

#include "kokomoe/core/error.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

namespace kokomoe {

void ExpertExchange::CountBuffers::begin_message() {
  message_.clear();
  send_counts_.clear();
  send_offsets_.clear();
}

void ExpertExchange::CountBuffers::end_part() {
  const int before = send_counts_.empty() ? 0 : send_offsets_.back() + send_counts_.back();
  send_offsets_.push_back(before);
  send_counts_.push_back(static_cast<int>(message_.size()) - before);
}

void ExpertExchange::CountBuffers::expect(const std::vector<int>& sizes) {
  receive_counts_ = sizes;
  receive_offsets_.resize(sizes.size());
  std::exclusive_scan(sizes.begin(), sizes.end(), receive_offsets_.begin(), 0);
  answer_.resize(static_cast<std::size_t>(std::accumulate(sizes.begin(), sizes.end(), 0)));
  next_ = 0;
}

void ExpertExchange::CountBuffers::exchange(AllToAll& ranks) {
  // Numbers for all experts fit into any message: one round, whatever the sizes.
  const int largest = *std::max_element(send_counts_.begin(), send_counts_.end());
  ranks.begin({message_.data(), send_counts_, send_offsets_},
              {answer_.data(), receive_counts_, receive_offsets_}, sizeof(int), largest, true);
  ranks.finish();
}

int ExpertExchange::CountBuffers::add_rows(int a, int b) {
  if (a > std::numeric_limits<int>::max() - b)
    fail("ExpertExchange", "an expert group holds more than 2^31 - 1 rows: use smaller "
                           "micro-batches");
  return a + b;
}

int ExpertExchange::CountBuffers::rows_of(const ExchangePlan& plan, const ExpertRange& block) {
  return std::accumulate(plan.counts.begin() + block.begin, plan.counts.begin() + block.end, 0);
}

void ExpertExchange::CountBuffers::start_transit(int in_node, int nodes) {
  in_node_ = in_node;
  nodes_ = nodes;
  transit_.clear();
  transit_place_.clear();
  transit_size_.clear();
}

void ExpertExchange::CountBuffers::transit_counts(int size) {
  transit_place_.push_back(transit_.size());
  transit_size_.push_back(size);
  for (int i = 0; i < size; ++i) transit_.push_back(get());
}

int ExpertExchange::CountBuffers::transit_rows(int m) const {
  int sum = 0;
  for (int s = 0; s < in_node_; ++s) {
    const auto cell = static_cast<std::size_t>(s * nodes_ + m);
    for (int i = 0; i < transit_size_[cell]; ++i)
      sum += transit_[transit_place_[cell] + static_cast<std::size_t>(i)];
  }
  return sum;
}

void ExpertExchange::CountBuffers::put_transit(int m) {
  for (int s = 0; s < in_node_; ++s) {
    const auto cell = static_cast<std::size_t>(s * nodes_ + m);
    for (int i = 0; i < transit_size_[cell]; ++i)
      put(transit_[transit_place_[cell] + static_cast<std::size_t>(i)]);
  }
}

void ExpertExchange::CountBuffers::lay_out_transit(ExchangePlan& plan) const {
  const int own = plan.rank % in_node_;
  plan.transit.assign(static_cast<std::size_t>(plan.chunks) * transit_size_.size(), 0);
  for (int s = 0; s < in_node_; ++s) {
    for (int m = 0; m < nodes_; ++m) {
      const auto cell = static_cast<std::size_t>(s * nodes_ + m);
      const ExpertRange block =
          owned_experts(plan.owned.total, m * in_node_ + own, plan.ranks);
      for (int c = 0; c < plan.chunks; ++c)
        for (int e = plan.chunk_begin(block, c); e < plan.chunk_begin(block, c + 1); ++e)
          plan.transit[static_cast<std::size_t>(c) * transit_size_.size() + cell] +=
              transit_[transit_place_[cell] + static_cast<std::size_t>(e)];
    }
  }
}

}  // namespace kokomoe
