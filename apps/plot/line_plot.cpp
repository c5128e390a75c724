// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "plot/line_plot.hpp"

#include "plot/frame.hpp"
#include "plot/svg.hpp"

#include <cmath>

namespace kokomoe::plot {

namespace {

using Look = Curve::Look;

struct Axes {
  Axis x, y;
};

Axes fit(const LinePlot& plot) {
  Range x(plot.log_x), y(plot.log_y);
  if (plot.from_zero) y.add(0);
  if (plot.x_from_zero) x.add(0);
  for (const Curve& curve : plot.curves) {
    for (const Point& point : curve.points) {
      x.add(point.x);
      if (curve.look != Look::marks) y.add(point.y);
    }
    for (const Point& point : curve.upper) y.add(point.y);
  }
  // From zero means from zero, not from a little below.
  const Axis fitted = y.axis(0.04);
  return {x.axis(), plot.from_zero && y.low() == 0 ? Axis(0, fitted.high()) : fitted};
}

bool drawable(const Frame& frame, const Axes& axes, const Point& point) {
  return std::isfinite(frame.x(axes.x, point.x)) && std::isfinite(frame.y(axes.y, point.y));
}

std::string vertex(const Frame& frame, const Axes& axes, const Point& point) {
  return length(frame.x(axes.x, point.x)) + " " + length(frame.y(axes.y, point.y));
}

/// A vertex for each point that can be drawn; one between two gaps becomes a dot by its round ends.
std::string path_of(const Frame& frame, const Axes& axes, const Points& points) {
  std::string path;
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (!drawable(frame, axes, points[i])) continue;
    const bool begins = i == 0 || !drawable(frame, axes, points[i - 1]);
    const bool ends = i + 1 == points.size() || !drawable(frame, axes, points[i + 1]);
    path += (begins ? "M" : "L") + vertex(frame, axes, points[i]);
    if (begins && ends) path += "h0";
  }
  return path;
}

std::string band_path(const Frame& frame, const Axes& axes, const Curve& curve) {
  std::string path;
  const std::size_t n = std::min(curve.points.size(), curve.upper.size());
  const auto good = [&](std::size_t i) {
    return drawable(frame, axes, curve.points[i]) && drawable(frame, axes, curve.upper[i]);
  };
  for (std::size_t begin = 0; begin < n;) {
    std::size_t end = begin;
    while (end < n && good(end)) ++end;
    for (std::size_t i = begin; i < end; ++i)
      path += (i == begin ? "M" : "L") + vertex(frame, axes, curve.points[i]);
    for (std::size_t i = end; i > begin; --i) path += "L" + vertex(frame, axes, curve.upper[i - 1]);
    if (end > begin) path += "Z";
    begin = end + 1;
  }
  return path;
}

std::string look_name(Look look) {
  switch (look) {
    case Look::line:
      return "line";
    case Look::thin:
      return "thin";
    case Look::points:
      return "points";
    case Look::band:
      return "band";
    default:
      return "marks";
  }
}

std::string open_path(const Curve& curve, const std::string& kind) {
  return "<path class=\"" + kind + " " + look_name(curve.look) + " " + style_class(curve.style) +
         "\" data-look=\"" + look_name(curve.look) + "\" data-name=\"" + escape(curve.name) +
         "\" d=\"";
}

std::string draw_marks(const Frame& frame, const Axes& axes, const Curve& curve) {
  std::string path;
  const Points kept = condense(curve.points, axes.x, plot_columns / 4);
  for (const Point& point : kept) {
    const double x = frame.x(axes.x, point.x);
    if (!std::isfinite(x)) continue;
    path += "M" + length(x - 3) + " " + length(frame.top - 3) + "l6 6m-6 0l6 -6";
  }
  return open_path(curve, "mark") + path + "\"><title>" + escape(curve.name) + "</title></path>\n";
}

std::string draw_dots(const Frame& frame, const Axes& axes, const Curve& curve,
                      const Points& points) {
  std::string svg = "<g class=\"dots " + style_class(curve.style) + "\">";
  for (const Point& point : points) {
    if (!drawable(frame, axes, point)) continue;
    svg += "<circle cx=\"" + length(frame.x(axes.x, point.x)) + "\" cy=\"" +
           length(frame.y(axes.y, point.y)) + "\" r=\"3\"><title>" + escape(curve.name) + ": " +
           number_text(point.y) + " at " + number_text(point.x) + "</title></circle>";
  }
  return svg + "</g>\n";
}

std::string draw_curve(const Frame& frame, const Axes& axes, const Curve& curve) {
  if (curve.look == Look::marks) return draw_marks(frame, axes, curve);
  if (curve.look == Look::band)
    return open_path(curve, "curve") + band_path(frame, axes, curve) + "\"/>\n";
  const Points kept = condense(curve.points, axes.x, plot_columns);
  std::string svg = open_path(curve, "curve") + path_of(frame, axes, kept) + "\"/>\n";
  // Dots that would run into each other tell no more than their line does.
  if (curve.look == Look::points && kept.size() <= 100) svg += draw_dots(frame, axes, curve, kept);
  return svg;
}

bool nothing_in(const LinePlot& plot, const Axes& axes, const Frame& frame) {
  for (const Curve& curve : plot.curves)
    for (const Point& point : curve.points)
      if (curve.look != Look::marks && drawable(frame, axes, point)) return false;
  return true;
}

}  // namespace

std::string draw(const LinePlot& plot) {
  const Frame frame = frame_of(plot.width, plot.height);
  const Axes axes = fit(plot);
  const std::string log = std::string(plot.log_x ? "x" : "") + (plot.log_y ? "y" : "");
  std::string svg = open_svg(
      "plot", plot.width, plot.height, plot.about,
      " data-plot=\"" + escape(plot.id) + "\" data-log=\"" + log + "\"" +
          number_attribute("data-x0", axes.x.low()) + number_attribute("data-x1", axes.x.high()) +
          number_attribute("data-y0", axes.y.low()) + number_attribute("data-y1", axes.y.high()) +
          " data-box=\"" + length(frame.left) + " " + length(frame.right) + " " +
          length(frame.top) + " " + length(frame.bottom) + "\"");
  const bool empty = nothing_in(plot, axes, frame);
  svg += draw_y_axis(frame, axes.y, plot.y_label + (plot.log_y ? " (log scale)" : ""));
  svg += draw_x_axis(frame, axes.x, plot.x_label + (plot.log_x ? " (log scale)" : ""), false);
  if (empty)
    svg += svg_text((frame.left + frame.right) / 2, (frame.top + frame.bottom) / 2, "label mid",
                    "no finite values");
  // What is pale lies behind, whichever curve it belongs to.
  for (const bool pale : {true, false})
    for (const Curve& curve : plot.curves)
      if ((curve.look == Look::thin || curve.look == Look::band) == pale)
        svg += draw_curve(frame, axes, curve);
  return svg + "</svg>";
}

}  // namespace kokomoe::plot
