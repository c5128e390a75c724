// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>
#include <vector>

namespace kokomoe {

/// One line of a plot. Points whose y is no number leave a gap.
struct PlotLine {
  std::string name;  ///< in the legend; "": none
  std::vector<double> x, y;
  std::vector<double> low, high;  ///< a band around y, or empty
  int colour = 0;                 ///< of plot_colour
  bool points = false;            ///< marks instead of a line
};

struct PlotOptions {
  std::string title, x_label, y_label;
  bool log_y = false;  ///< values that are not positive leave gaps
  int width = 720, height = 420;
};

/// An SVG picture that stands by itself, or inside a page: no script, fonts of the reader, text in
/// currentColor, so that it follows a page's light and dark. Lines of more points than columns of
/// pixels are drawn with the least and the greatest of each column. Without a single point it says
/// so.
std::string draw_lines(const PlotOptions& options, const std::vector<PlotLine>& lines);

/// Round numbers that cover [least, greatest], about `count` of them, the first not above `least`
/// and the last not below `greatest`.
std::vector<double> round_ticks(double least, double greatest, int count);

/// Colours that people with any colour vision tell apart (six of Okabe and Ito 2008, grey and
/// brown), as
/// "#rrggbb"; after the
/// eighth they begin again.
std::string plot_colour(int index);

/// "<" and the like as XML writes them.
std::string xml_text(const std::string& text);

}  // namespace kokomoe
