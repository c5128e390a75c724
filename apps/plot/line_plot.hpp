// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "plot/points.hpp"

#include <string>
#include <vector>

namespace kokomoe::plot {

/// What is drawn for one thing that is compared, always in the same style.
struct Curve {
  enum class Look {
    line,    ///< a line
    thin,    ///< a pale one, behind the others
    points,  ///< dots, with a thin line between them
    band,    ///< the area between `points` and `upper`: a mean's spread
    marks,   ///< crosses at the upper edge; y says nothing
  };
  std::string name;
  int style = 0;
  Look look = Look::line;
  Points points;   ///< by ascending x
  Points upper{};  ///< of a band: its upper edge, at the same x
};

/// Curves over an axis. Both axes fit what is drawn; marks and points carry their values as
/// tooltips.
struct LinePlot {
  std::string id;     ///< a word: attribute data-plot of the drawing
  std::string about;  ///< said to those who cannot see it
  std::string x_label, y_label;
  bool log_x = false, log_y = false;
  bool from_zero = false;    ///< the vertical axis begins at 0
  bool x_from_zero = false;  ///< and so does the other
  std::vector<Curve> curves;
  double width = 560, height = 330;
};

/// Points that a curve keeps for each column of the drawing are two, in so many columns.
inline constexpr std::size_t plot_columns = 480;

/// An `<svg>`. Each curve is a `<path class="curve ..." data-look data-name>`, whose vertices are
/// its points; the drawing's attributes data-x0, data-x1 (data-y0, data-y1) are the values at the
/// left and right (bottom and top) of data-box = "left right top bottom", data-log says "x", "y",
/// "xy" or "".
std::string draw(const LinePlot& plot);

}  // namespace kokomoe::plot
