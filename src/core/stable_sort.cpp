// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/stable_sort.hpp"

namespace kokomoe {

// Blocks of keys are counted, the counts scanned over (bucket, block), and each block scattered in
// order.
void stable_sort(const ExecutionSpace& space, Arena& scratch, const Vector<const int>& key,
                 int buckets, const Vector<int>& offsets, const Vector<int>& order) {
  using Range = Kokkos::RangePolicy<ExecutionSpace>;
  constexpr int block_size = 256;
  const int slots = static_cast<int>(key.extent(0));
  const int blocks = (slots + block_size - 1) / block_size;
  ArenaScope scope(scratch);
  const Matrix<int> start = scratch.matrix<int>(blocks, buckets);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("core::sort::count"), Range(space, 0, blocks), KOKKOS_LAMBDA(const int b) {
        for (int e = 0; e < buckets; ++e) start(b, e) = 0;
        const int end = (b + 1) * block_size < slots ? (b + 1) * block_size : slots;
        for (int n = b * block_size; n < end; ++n)
          if (key(n) >= 0 && key(n) < buckets) ++start(b, key(n));
      });
  Kokkos::parallel_for(
      KOKOMOE_LABEL("core::sort::scan_blocks"), Range(space, 0, buckets > 0 ? buckets : 1),
      KOKKOS_LAMBDA(const int e) {
        if (e == 0) offsets(0) = 0;
        if (e >= buckets) return;
        int sum = 0;
        for (int b = 0; b < blocks; ++b) {
          const int count = start(b, e);
          start(b, e) = sum;
          sum += count;
        }
        offsets(e + 1) = sum;
      });
  Kokkos::parallel_scan(
      KOKOMOE_LABEL("core::sort::scan"), Range(space, 0, buckets),
      KOKKOS_LAMBDA(const int e, int& sum, const bool final) {
        sum += offsets(e + 1);
        if (final) offsets(e + 1) = sum;
      });
  Kokkos::parallel_for(
      KOKOMOE_LABEL("core::sort::scatter"), Range(space, 0, blocks), KOKKOS_LAMBDA(const int b) {
        const int end = (b + 1) * block_size < slots ? (b + 1) * block_size : slots;
        for (int n = b * block_size; n < end; ++n) {
          const int e = key(n);
          if (e >= 0 && e < buckets) order(offsets(e) + start(b, e)++) = n;
        }
      });
}

}  // namespace kokomoe
