// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/types.hpp"

#include <string>
#include <vector>

namespace kokomoe {

/// What `host` holds, as kernels see it. Where they can read host memory the view lies over the
/// vector, which must stay as it is until the step has run; elsewhere a copy is queued on `space`
/// into `buffer`, which grows to the largest size seen and is called `name`.
template <class T>
Vector<const T> upload(const ExecutionSpace& space, const char* name, const std::vector<T>& host,
                       Vector<T>& buffer) {
  if constexpr (Kokkos::SpaceAccessibility<ExecutionSpace, Kokkos::HostSpace>::accessible) {
    return Vector<const T>(host.data(), host.size());
  } else {
    if (buffer.extent(0) < host.size()) {
      // Old views may still be read by kernels under way.
      space.fence(KOKOMOE_LABEL("data::upload"));
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

}  // namespace kokomoe
