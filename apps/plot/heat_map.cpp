// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "plot/heat_map.hpp"

#include "plot/frame.hpp"
#include "plot/svg.hpp"

#include <algorithm>
#include <cmath>

namespace kokomoe::plot {

namespace {

/// Colours of a diverging scale lie around 4, so that few thresholds use its middle.
std::size_t first_colour(const HeatScale& scale) {
  const std::size_t colours = scale.thresholds.size() + 1;
  return scale.diverging && colours < 9 ? (9 - colours) / 2 : 0;
}

std::size_t colour_of(const HeatScale& scale, double value) {
  const auto& bounds = scale.thresholds;
  return first_colour(scale) +
         static_cast<std::size_t>(std::upper_bound(bounds.begin(), bounds.end(), value) -
                                  bounds.begin());
}

std::string colour_class(const HeatScale& scale, std::size_t colour) {
  return (scale.diverging ? "v" : "s") + std::to_string(colour);
}

/// Borders between columns: halfway between their places, as far out at the ends.
std::vector<double> borders(const std::vector<double>& x) {
  std::vector<double> edges(x.size() + 1);
  if (x.size() == 1) return {x[0] - 0.5, x[0] + 0.5};
  for (std::size_t i = 1; i < x.size(); ++i) edges[i] = 0.5 * (x[i - 1] + x[i]);
  edges.front() = 2 * x.front() - edges[1];
  edges.back() = 2 * x.back() - edges[x.size() - 1];
  return edges;
}

std::string row_numbers(const Frame& frame, const HeatMap& map, double cell) {
  std::string svg;
  const auto every = static_cast<std::size_t>(std::max(1.0, std::ceil(15 / cell)));
  for (std::size_t r = 0; r < map.rows; r += every)
    svg += svg_text(frame.left - 8, frame.top + (static_cast<double>(r) + 0.5) * cell + 4.5,
                    "number end", std::to_string(map.first_row + r * map.row_stride));
  return svg;
}

}  // namespace

std::string draw(const HeatMap& map) {
  const std::size_t columns = map.x.size();
  const double cell =
      std::clamp(260.0 / static_cast<double>(std::max<std::size_t>(map.rows, 1)), 1.0, 16.0);
  const double height = 70 + cell * static_cast<double>(map.rows);
  const Frame frame = frame_of(map.width, height, 46);
  std::string svg =
      open_svg("heat", map.width, height, map.about,
               " data-plot=\"" + escape(map.id) + "\" data-rows=\"" + std::to_string(map.rows) +
                   "\" data-columns=\"" + std::to_string(columns) + "\"");
  svg += svg_text(4, 14, "label", map.y_label) + row_numbers(frame, map, cell);
  if (columns == 0) return svg + "</svg>";
  const std::vector<double> edges = borders(map.x);
  const Axis axis(edges.front(), edges.back());
  std::vector<std::string> paths(9);
  for (std::size_t r = 0; r < map.rows; ++r) {
    for (std::size_t begin = 0; begin < columns;) {
      const double first = map.values[r * columns + begin];
      std::size_t end = begin + 1;
      if (!std::isfinite(first)) {
        begin = end;
        continue;
      }
      const std::size_t colour = colour_of(map.scale, first);
      while (end < columns && std::isfinite(map.values[r * columns + end]) &&
             colour_of(map.scale, map.values[r * columns + end]) == colour)
        ++end;
      paths[colour] += "M" + length(frame.x(axis, edges[begin])) + " " +
                       length(frame.top + static_cast<double>(r) * cell) + "H" +
                       length(frame.x(axis, edges[end])) + "v" + length(cell) + "H" +
                       length(frame.x(axis, edges[begin])) + "z";
      begin = end;
    }
  }
  for (std::size_t colour = 0; colour < paths.size(); ++colour)
    if (!paths[colour].empty())
      svg += "<path class=\"cell " + colour_class(map.scale, colour) + "\" d=\"" + paths[colour] +
             "\"/>\n";
  return svg + draw_x_axis(frame, axis, map.x_label, false) + "</svg>";
}

std::string heat_key(const HeatScale& scale, const std::string& unit) {
  const std::size_t first = first_colour(scale);
  std::string html = "<p class=\"key\">" + escape(unit) + ": ";
  for (std::size_t i = 0; i <= scale.thresholds.size(); ++i) {
    if (i > 0)
      html += " <span class=\"bound\">" + number_text(scale.thresholds[i - 1]) + "</span> ";
    html +=
        "<svg class=\"box\" viewBox=\"0 0 18 12\" width=\"18\" height=\"12\" "
        "aria-hidden=\"true\"><path class=\"cell " +
        colour_class(scale, first + i) + "\" d=\"M0 0H18V12H0z\"/></svg>";
  }
  return html + "</p>\n";
}

}  // namespace kokomoe::plot
