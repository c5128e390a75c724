// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <vector>

namespace kokomoe::study {

double median(std::vector<double> values);

/// Least-squares slope of log y over log x.
double log_slope(const std::vector<double>& x, const std::vector<double>& y);

/// An estimate against the exact gradient.
struct GradientError {
  double relative = 0;  ///< |estimate - exact| / |exact|
  double cosine = 0;
  double scaled = 0;    ///< |c estimate - exact| / |exact| with the best c
};
GradientError compare_gradients(const std::vector<double>& estimate,
                                const std::vector<double>& exact);

}  // namespace kokomoe::study
