// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/data/device_batch.hpp"

#include <string>

namespace kokomoe {

namespace {

/// True where kernels may read what std::vector holds.
constexpr bool reads_host =
    Kokkos::SpaceAccessibility<ExecutionSpace, Kokkos::HostSpace>::accessible;

/// `buffer` is only looked at where a copy is needed.
template <class T>
Vector<const T> upload(const ExecutionSpace& space, const char* name, const std::vector<T>& host,
                       Vector<T>& buffer) {
  if constexpr (reads_host) {
    return Vector<const T>(host.data(), host.size());
  } else {
    if (buffer.extent(0) < host.size()) {
      // Old views may still be read by kernels under way.
      space.fence(KOKOMOE_LABEL("data::device_batch"));
      buffer = Vector<T>(Kokkos::view_alloc(std::string(name), Kokkos::WithoutInitializing),
                         host.size());
    }
    const Vector<T> part(buffer.data(), host.size());
    const Kokkos::View<const T*, Kokkos::LayoutRight, Kokkos::HostSpace> source(host.data(),
                                                                                host.size());
    Kokkos::deep_copy(space, part, source);
    return part;
  }
}

}  // namespace

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
