// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "plot/bar_plot.hpp"

#include "plot/frame.hpp"
#include "plot/points.hpp"
#include "plot/svg.hpp"

#include <algorithm>
#include <cmath>

namespace kokomoe::plot {

namespace {

std::string draw_bar(const Frame& frame, const Axis& y, const Bar& bar, double left, double width) {
  const double zero = frame.y(y, 0), top = frame.y(y, bar.value);
  std::string svg = "<path class=\"bar " + style_class(bar.style) + "\" d=\"M" + length(left) +
                    " " + length(zero) + "V" + length(top) + "h" + length(width) + "V" +
                    length(zero) + "z\"><title>" + escape(bar.name) + ": " + number_text(bar.value);
  if (bar.spread > 0) svg += " \u00b1 " + number_text(bar.spread);
  svg += "</title></path>\n";
  if (bar.spread > 0)
    svg += "<path class=\"spread\" d=\"M" + length(left + width / 2) + " " +
           length(frame.y(y, bar.value - bar.spread)) + "V" +
           length(frame.y(y, bar.value + bar.spread)) + "\"/>\n";
  return svg;
}

}  // namespace

std::string draw(const BarPlot& plot) {
  const Frame frame = frame_of(plot.width, plot.height);
  Range range;
  range.add(0);
  range.add(plot.reference);
  std::size_t most = 1;
  for (const BarPlot::Group& group : plot.groups) {
    most = std::max(most, group.bars.size());
    for (const Bar& bar : group.bars) {
      range.add(bar.value - bar.spread);
      range.add(bar.value + bar.spread);
    }
  }
  const Axis fitted = range.axis(0.04);
  const Axis y(range.low() < 0 ? fitted.low() : 0, range.high() > 0 ? fitted.high() : 0);
  std::string svg =
      open_svg("bars", plot.width, plot.height, plot.about,
               " data-plot=\"" + escape(plot.id) + "\"" + number_attribute("data-y0", y.low()) +
                   number_attribute("data-y1", y.high()));
  svg += draw_y_axis(frame, y, plot.y_label);
  const double room = (frame.right - frame.left) /
                      static_cast<double>(std::max<std::size_t>(plot.groups.size(), 1));
  const double width = std::min(0.8 * room / static_cast<double>(most), 48.0);
  const auto every = static_cast<std::size_t>(std::max(1.0, std::ceil(34 / room)));
  for (std::size_t g = 0; g < plot.groups.size(); ++g) {
    const BarPlot::Group& group = plot.groups[g];
    const double middle = frame.left + (static_cast<double>(g) + 0.5) * room;
    double left = middle - width * static_cast<double>(group.bars.size()) / 2;
    for (const Bar& bar : group.bars) {
      if (std::isfinite(bar.value)) svg += draw_bar(frame, y, bar, left, 0.92 * width);
      left += width;
    }
    if (g % every == 0) svg += svg_text(middle, frame.bottom + 18, "number mid", group.label);
  }
  const auto across = [&](const char* kind, double value) {
    const double at = frame.y(y, value);
    svg += std::string("<path class=\"") + kind + "\" d=\"M" + length(frame.left) + " " +
           length(at) + "H" + length(frame.right) + "\"/>";
  };
  across("axis", 0);
  if (std::isfinite(plot.reference)) across("reference", plot.reference);
  return svg + svg_text(frame.right, frame.bottom + 38, "label end", plot.x_label) + "</svg>";
}

}  // namespace kokomoe::plot
