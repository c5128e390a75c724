// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/types.hpp"

#include <algorithm>
#include <chrono>
#include <vector>

namespace kokomoe::app {

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Seconds between laps, with everything in `space` done.
class Timer {
 public:
  explicit Timer(const ExecutionSpace& space) : space_(space) { lap(); }
  double lap() {
    space_.fence();
    const auto now = std::chrono::steady_clock::now();
    const double seconds = std::chrono::duration<double>(now - last_).count();
    last_ = now;
    return seconds;
  }

 private:
  const ExecutionSpace& space_;
  std::chrono::steady_clock::time_point last_{};
};

}  // namespace kokomoe::app
