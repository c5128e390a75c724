// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/data/masking.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/philox.hpp"
#include "kokomoe/data/upload.hpp"

#include <algorithm>
#include <cmath>

namespace kokomoe {

TokenMasking::TokenMasking(double rate, int mask_id, std::vector<int> kept, std::uint64_t seed)
    : rate_(rate), mask_id_(mask_id), kept_(std::move(kept)), seed_(seed) {
  if (!(rate > 0 && rate <= 1))
    throw InputError("a masking rate of " + std::to_string(rate) + " is not in (0, 1]");
  kept_.push_back(mask_id);
  std::sort(kept_.begin(), kept_.end());
  if (kept_.front() < 0)
    throw InputError("masking: " + std::to_string(kept_.front()) + " is no token's id");
}

std::int64_t TokenMasking::count(std::int64_t tokens) const {
  if (tokens == 0) return 0;
  return std::max<std::int64_t>(1, std::llround(rate_ * static_cast<double>(tokens)));
}

bool TokenMasking::may_hide(int id) const {
  return !std::binary_search(kept_.begin(), kept_.end(), id);
}

void TokenMasking::hide(std::int64_t step, const HostBatch& batch, MaskedBatch& out) const {
  const PhiloxStream stream(seed_, Purpose::masking, static_cast<std::uint64_t>(step), 0, 0);
  out.ids = batch.ids;
  out.targets.assign(batch.ids.size(), -1);
  out.rows.clear();
  for (int s = 0; s < batch.sequences; ++s) {
    const int begin = batch.sequence_offsets[static_cast<std::size_t>(s)];
    const int end = batch.sequence_offsets[static_cast<std::size_t>(s) + 1];
    out.draws.clear();
    for (int row = begin; row < end; ++row) {
      const auto r = static_cast<std::size_t>(row);
      if (!may_hide(batch.ids[r])) continue;
      const PhiloxBlock draw =
          stream.block(batch.sequence_index[r], static_cast<std::uint32_t>(batch.position[r]), 0);
      out.draws.emplace_back(static_cast<std::uint64_t>(draw.word[1]) << 32 | draw.word[0], row);
    }
    // The smallest draws of a sequence are a choice without replacement.
    const auto hidden = out.draws.begin() + count(static_cast<std::int64_t>(out.draws.size()));
    std::nth_element(out.draws.begin(), hidden, out.draws.end());
    const std::size_t first = out.rows.size();
    for (auto draw = out.draws.begin(); draw != hidden; ++draw) out.rows.push_back(draw->second);
    std::sort(out.rows.begin() + static_cast<std::ptrdiff_t>(first), out.rows.end());
  }
  for (const int row : out.rows) {
    const auto r = static_cast<std::size_t>(row);
    out.targets[r] = batch.ids[r];
    out.ids[r] = mask_id_;
  }
}

MaskedTokens to_device(const ExecutionSpace& space, const MaskedBatch& host,
                       DeviceMaskedBatch& device) {
  return {upload(space, "kokomoe::data::masked_ids", host.ids, device.ids),
          upload(space, "kokomoe::data::masked_targets", host.targets, device.targets),
          upload(space, "kokomoe::data::masked_rows", host.rows, device.rows)};
}

}  // namespace kokomoe
