// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "plot/frame.hpp"

#include "plot/svg.hpp"

#include <charconv>

namespace kokomoe::plot {

namespace {

std::string line(const char* kind, double x0, double y0, double x1, double y1) {
  return std::string("<path class=\"") + kind + "\" d=\"M" + length(x0) + " " + length(y0) + "L" +
         length(x1) + " " + length(y1) + "\"/>";
}

}  // namespace

Frame frame_of(double width, double height, double left) {
  return {left, width - 14, 26, height - 44};
}

std::string open_svg(const std::string& kind, double width, double height, const std::string& about,
                     const std::string& attributes) {
  return "<svg class=\"" + kind + "\" viewBox=\"0 0 " + length(width) + " " + length(height) +
         "\" role=\"img\" aria-label=\"" + escape(about) + "\"" + attributes + ">\n";
}

std::string draw_x_axis(const Frame& frame, const Axis& axis, const std::string& label, bool grid) {
  std::string svg;
  for (const Tick& tick : axis.ticks(6)) {
    const double x = frame.x(axis, tick.value);
    if (grid)
      svg += line(tick.label.empty() ? "grid minor" : "grid", x, frame.top, x, frame.bottom);
    if (!tick.label.empty()) {
      svg += line("tick", x, frame.bottom, x, frame.bottom + 4);
      svg += svg_text(x, frame.bottom + 18, "number mid", tick.label);
    }
  }
  svg += line("axis", frame.left, frame.bottom, frame.right, frame.bottom);
  return svg + svg_text(frame.right, frame.bottom + 38, "label end", label) + "\n";
}

std::string draw_y_axis(const Frame& frame, const Axis& axis, const std::string& label) {
  std::string svg;
  for (const Tick& tick : axis.ticks(6)) {
    const double y = frame.y(axis, tick.value);
    svg += line(tick.label.empty() ? "grid minor" : "grid", frame.left, y, frame.right, y);
    if (!tick.label.empty()) svg += svg_text(frame.left - 8, y + 4.5, "number end", tick.label);
  }
  return svg + svg_text(4, 14, "label", label) + "\n";
}

std::string number_attribute(const char* name, double value) {
  char text[40];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  return std::string(" ") + name + "=\"" + std::string(text, end) + "\"";
}

}  // namespace kokomoe::plot
