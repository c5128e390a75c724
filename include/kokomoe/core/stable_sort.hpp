// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/arena.hpp"
#include "kokomoe/core/types.hpp"

namespace kokomoe {

/// Stable counting sort of the indices 0..N-1 by key (N) in [0, buckets); indices with other keys
/// are left out. offsets (buckets + 1): first place of each bucket; order (N): indices, of which
/// offsets[buckets] are written. The result is the stable order whatever the number of threads.
/// Costs N + buckets N / 256 integers of work and scratch.
void stable_sort(const ExecutionSpace& space, Arena& scratch, const Vector<const int>& key,
                 int buckets, const Vector<int>& offsets, const Vector<int>& order);

}  // namespace kokomoe
