// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <Kokkos_Core.hpp>

#include <cstdint>
#include <string>

/// Views, spaces and labels that every other floor speaks.
namespace kokomoe {

/// The one execution space of this build (Kokkos' default). Kernels take an instance of it first.
using ExecutionSpace = Kokkos::DefaultExecutionSpace;
using MemorySpace = ExecutionSpace::memory_space;

/// True where the host can read what kernels write without a copy.
inline constexpr bool host_accessible =
    Kokkos::SpaceAccessibility<Kokkos::HostSpace, MemorySpace>::accessible;

/// Row-major dense storage: rows are tokens (or output channels), columns are channels.
template <class T>
using Matrix = Kokkos::View<T**, Kokkos::LayoutRight, MemorySpace>;
template <class T>
using Vector = Kokkos::View<T*, Kokkos::LayoutRight, MemorySpace>;

/// A label with static storage: kernels are launched every step and must not build strings there.
#define KOKOMOE_LABEL(text)                        \
  ([]() -> const std::string& {                    \
    static const std::string kokomoe_label("kokomoe::" text); \
    return kokomoe_label;                          \
  }())

/// A named range for Kokkos Tools, closed at the end of the scope. `label`: from KOKOMOE_LABEL.
class Region {
 public:
  explicit Region(const std::string& label) { Kokkos::Profiling::pushRegion(label); }
  ~Region() { Kokkos::Profiling::popRegion(); }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
};

}  // namespace kokomoe
