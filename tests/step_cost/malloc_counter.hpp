// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace kokomoe::test {

/// Calls of malloc and its kin, operator new included, by any thread and any library.
struct MallocCounts {
  long small = 0;  ///< below 1 KiB
  long large = 0;
  long gemm = 0;  ///< of any size, below kokomoe::gemm or in a BLAS: not ours to avoid
};

/// False where malloc cannot be replaced: C libraries other than glibc, sanitizers.
bool malloc_counts_available();
void start_malloc_counts();
/// With KOKOMOE_TRACE_MALLOC=1 in the environment, the call stacks of small and large ones
/// have gone to standard error.
MallocCounts stop_malloc_counts();

}  // namespace kokomoe::test
