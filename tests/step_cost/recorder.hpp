// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <Kokkos_Core.hpp>

#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace kokomoe::test {

/// What Kokkos Tools tells of a piece of work, while one of these lives.
class Recorder {
 public:
  struct Copy {
    std::string to, from;
    std::uint64_t bytes = 0;
    bool same_memory = false;
    /// One number into a view; Kokkos gives it this name or that one.
    bool fill() const { return from == "(none)" || from == "Scalar"; }
  };

  Recorder() {
    current() = this;
    namespace tools = Kokkos::Tools::Experimental;
    tools::set_begin_parallel_for_callback(kernel);
    tools::set_begin_parallel_reduce_callback(kernel);
    tools::set_begin_parallel_scan_callback(kernel);
    tools::set_allocate_data_callback(allocate);
    tools::set_begin_deep_copy_callback(copy);
    tools::set_push_region_callback(region);
    tools::set_begin_fence_callback(fence);
  }
  ~Recorder() {
    Kokkos::Tools::Experimental::pause_tools();
    current() = nullptr;
  }
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  void clear() {
    kernels.clear();
    allocations.clear();
    regions.clear();
    fences.clear();
    copies.clear();
  }

  std::multiset<std::string> kernels, allocations, regions, fences;
  std::vector<Copy> copies;

 private:
  static Recorder*& current() {
    static Recorder* recorder = nullptr;
    return recorder;
  }
  static void kernel(const char* name, std::uint32_t, std::uint64_t* id) {
    *id = 0;
    if (current() != nullptr) current()->kernels.insert(name);
  }
  static void allocate(const Kokkos::Tools::SpaceHandle, const char* label, const void*,
                       const std::uint64_t) {
    if (current() != nullptr) current()->allocations.insert(label);
  }
  static void copy(Kokkos::Tools::SpaceHandle, const char* to, const void* to_memory,
                   Kokkos::Tools::SpaceHandle, const char* from, const void* from_memory,
                   std::uint64_t bytes) {
    if (current() != nullptr)
      current()->copies.push_back({to, from, bytes, to_memory == from_memory});
  }
  static void region(const char* name) {
    if (current() != nullptr) current()->regions.insert(name);
  }
  static void fence(const char* name, std::uint32_t, std::uint64_t* id) {
    *id = 0;
    if (current() != nullptr) current()->fences.insert(name);
  }
};

}  // namespace kokomoe::test
