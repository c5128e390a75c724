// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "study/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace kokomoe::study {

double median(std::vector<double> values) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : 0.5 * (values[half - 1] + values[half]);
}

double log_slope(const std::vector<double>& x, const std::vector<double>& y) {
  double mean_x = 0, mean_y = 0, xy = 0, xx = 0;
  const auto count = static_cast<double>(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    mean_x += std::log(x[i]) / count;
    mean_y += std::log(y[i]) / count;
  }
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double dx = std::log(x[i]) - mean_x;
    xy += dx * (std::log(y[i]) - mean_y);
    xx += dx * dx;
  }
  return xy / xx;
}

GradientError compare_gradients(const std::vector<double>& estimate,
                                const std::vector<double>& exact) {
  double gg = 0, ge = 0, ee = 0, difference = 0, scaled = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    gg += estimate[i] * estimate[i];
    ge += estimate[i] * exact[i];
    ee += exact[i] * exact[i];
    difference += (estimate[i] - exact[i]) * (estimate[i] - exact[i]);
  }
  // An optimizer absorbs a size, not a sign.
  const double best = gg > 0 && ge > 0 ? ge / gg : 0;
  for (std::size_t i = 0; i < exact.size(); ++i)
    scaled += (best * estimate[i] - exact[i]) * (best * estimate[i] - exact[i]);
  return {std::sqrt(difference / ee), gg > 0 ? ge / std::sqrt(gg * ee) : 0, std::sqrt(scaled / ee)};
}

}  // namespace kokomoe::study
