// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <limits>
#include <string>
#include <vector>

namespace kokomoe::plot {

struct Bar {
  std::string name;
  int style = 0;
  double value = 0;   ///< not finite: no bar
  double spread = 0;  ///< a line from value - spread to value + spread; 0: none
};

/// Bars side by side in groups, from zero.
struct BarPlot {
  struct Group {
    std::string label;
    std::vector<Bar> bars;
  };
  std::string id, about;  ///< as of LinePlot
  std::string x_label, y_label;
  /// A line across, say for what is ideal; NaN: none.
  double reference = std::numeric_limits<double>::quiet_NaN();
  std::vector<Group> groups;
  double width = 560, height = 330;
};

/// An `<svg>`. Each bar is a `<path class="bar ...">` with its value as a tooltip.
std::string draw(const BarPlot& plot);

}  // namespace kokomoe::plot
