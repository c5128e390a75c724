// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/philox.hpp"
#include "kokomoe/core/types.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

namespace kokomoe::app {

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Where the middle half of some repeats lies.
struct Spread {
  double low = 0, median = 0, high = 0;  ///< quartiles
  double least = 0;

  explicit Spread(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    const std::size_t last = values.size() - 1;
    low = values[last / 4];
    median = values[values.size() / 2];
    high = values[last - last / 4];
    least = values.front();
  }
  nlohmann::json quartiles(double unit) const { return {low * unit, high * unit}; }
};

/// Seconds between laps, with everything in `space` done.
class Timer {
 public:
  explicit Timer(const ExecutionSpace& space) : space_(space) { lap(); }
  double lap() {
    space_.fence(KOKOMOE_LABEL("bench::lap"));
    const auto now = std::chrono::steady_clock::now();
    const double seconds = std::chrono::duration<double>(now - last_).count();
    last_ = now;
    return seconds;
  }

 private:
  const ExecutionSpace& space_;
  std::chrono::steady_clock::time_point last_{};
};

/// Uniform numbers in (-scale, scale).
template <class T>
void fill(const Matrix<T>& matrix, std::uint64_t seed, double scale) {
  const PhiloxStream stream(seed, Purpose::initialization, 0, 0, 0);
  const std::size_t columns = matrix.extent(1);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("bench::fill"), Kokkos::RangePolicy<ExecutionSpace>(0, matrix.size()),
      KOKKOS_LAMBDA(const std::size_t i) {
        matrix(i / columns, i % columns) =
            static_cast<T>(scale) *
            (T(2) * stream.template uniform<T>(static_cast<std::uint32_t>(i), 0, 0) - T(1));
      });
  Kokkos::fence(KOKOMOE_LABEL("bench::fill"));
}

}  // namespace kokomoe::app
