// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/data/device_batch.hpp"

#include "kokomoe/data/upload.hpp"

namespace kokomoe {

PackedTokens to_device(const ExecutionSpace& space, const HostBatch& host, DeviceBatch& device) {
  PackedTokens tokens;
  tokens.tokens = host.tokens;
  tokens.sequences = host.sequences;
  tokens.max_length = host.max_length;
  tokens.ids = upload(space, "kokomoe::data::ids", host.ids, device.ids);
  tokens.targets = upload(space, "kokomoe::data::targets", host.targets, device.targets);
  tokens.sequence_offsets = upload(space, "kokomoe::data::sequence_offsets", host.sequence_offsets,
                                   device.sequence_offsets);
  tokens.sequence_index =
      upload(space, "kokomoe::data::sequence_index", host.sequence_index, device.sequence_index);
  tokens.position = upload(space, "kokomoe::data::position", host.position, device.position);
  return tokens;
}

}  // namespace kokomoe
