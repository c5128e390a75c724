// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "train/token_counts.hpp"

#include "kokomoe/moe/router_registry.hpp"

#include <algorithm>
#include <memory>

namespace kokomoe::detail {

void count_tokens_for_hash(MoeConfig& moe, int moe_every, int vocabulary,
                           const std::vector<const Corpus*>& corpora) {
  if (moe_every == 0 || moe.router != "hash" || moe.token_counts != nullptr) return;
  const RouterOptions options = moe.options.completed(moe.router, router_info(moe.router).options);
  if (options.text("table") != "balanced") return;
  std::vector<std::int64_t> counts(static_cast<std::size_t>(vocabulary), 0);
  for (const Corpus* corpus : corpora) {
    std::vector<int> ids(std::min<std::size_t>(corpus->size(), 1 << 16));
    for (std::size_t begin = 0; begin < corpus->size(); begin += ids.size()) {
      const std::size_t count = std::min(ids.size(), corpus->size() - begin);
      corpus->copy(begin, count, ids.data());
      for (std::size_t i = 0; i < count; ++i) ++counts[static_cast<std::size_t>(ids[i])];
    }
  }
  moe.token_counts = std::make_shared<const std::vector<std::int64_t>>(std::move(counts));
}

}  // namespace kokomoe::detail
