// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/batches.hpp"
#include "kokomoe/parallel/step_context.hpp"

namespace kokomoe {

/// Device buffers of a batch, allocated for the largest one seen and then reused.
struct DeviceBatch {
  Vector<int> ids, targets, sequence_offsets, position;
  Vector<std::uint32_t> sequence_index;
};

/// The batch as kernels see it. Where they can read host memory nothing is copied: the views lie
/// over `host`'s vectors, which must stay as they are until the step has run. Elsewhere five copies
/// are queued on `space`. Both must outlive the result.
PackedTokens to_device(const ExecutionSpace& space, const HostBatch& host, DeviceBatch& device);

}  // namespace kokomoe
