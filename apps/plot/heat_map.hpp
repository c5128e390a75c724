// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace kokomoe::plot {

/// Colours by thresholds: a value has the colour of how many of them it reaches.
struct HeatScale {
  std::vector<double> thresholds;  ///< ascending, at most 8
  bool diverging = false;  ///< the colour in the middle is neutral; else from pale to strong
};

/// Values over columns along x and rows down, the first row at the top.
struct HeatMap {
  std::string id, about;  ///< as of LinePlot
  std::string x_label, y_label;
  std::vector<double> x;  ///< where each column stands, ascending
  std::size_t rows = 0;
  std::size_t first_row = 0;   ///< the number of the first
  std::size_t row_stride = 1;  ///< how many numbers a row stands for
  std::vector<double> values;  ///< rows * x.size(), row by row; what is not finite stays empty
  HeatScale scale;
  double width = 560;
};

/// An `<svg>` with one path for each colour, neighbours in a row together. data-rows, data-columns.
std::string draw(const HeatMap& map);

/// What the colours mean, as HTML: from `low` to `high` with the thresholds between.
std::string heat_key(const HeatScale& scale, const std::string& unit);

}  // namespace kokomoe::plot
