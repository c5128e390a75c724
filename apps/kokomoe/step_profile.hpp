// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <Kokkos_Core.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace kokomoe::app {

enum class StepPart {
  embedding,
  attention,
  norms,
  feed_forward,  ///< of dense blocks
  router,
  dispatch,  ///< plan, gather, exchange
  experts,
  combine,
  head,  ///< output projection and loss
  optimizer,
  other  ///< residual sums, dropout, copies, batches, statistics, and the host in between
};
constexpr std::size_t step_parts = 11;

const char* to_string(StepPart part);

/// Seconds of each part of what runs while one of these lives: regions and kernels tell by their
/// labels, through Kokkos' profiling hooks, where the time between them goes. Kokkos fences around
/// each. What was hooked before is hooked again at the end.
class StepProfile {
 public:
  StepProfile();
  ~StepProfile();
  StepProfile(const StepProfile&) = delete;
  StepProfile& operator=(const StepProfile&) = delete;

  std::array<double, step_parts> seconds() const { return seconds_; }

 private:
  using Clock = std::chrono::steady_clock;

  static void begin_kernel(const char* label, std::uint32_t device, std::uint64_t* id);
  static void end_kernel(std::uint64_t id);
  static void push_region(const char* label);
  static void pop_region();

  void charge();
  void enter(const char* label);
  void leave();
  StepPart part_of(const std::string& label) const;

  std::array<double, step_parts> seconds_{};
  std::vector<StepPart> stack_ = {StepPart::other};
  Clock::time_point last_ = Clock::now();
  Kokkos::Tools::Experimental::EventSet before_;
};

}  // namespace kokomoe::app
