// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "plot/axis.hpp"

#include <string>

namespace kokomoe::plot {

/// Where the values of a drawing lie, in its own lengths; y points down.
struct Frame {
  double left = 62, right = 546, top = 26, bottom = 286;

  double x(const Axis& axis, double value) const {
    return left + axis.fraction(value) * (right - left);
  }
  double y(const Axis& axis, double value) const {
    return bottom - axis.fraction(value) * (bottom - top);
  }
};

/// A frame in a drawing of that size.
Frame frame_of(double width, double height, double left = 62);

/// `<svg ...>` up to its content: size, `kind` as a class, `about` for who cannot see it.
std::string open_svg(const std::string& kind, double width, double height, const std::string& about,
                     const std::string& attributes);

/// Grid lines, marks, numbers and the axis' name.
std::string draw_x_axis(const Frame& frame, const Axis& axis, const std::string& label, bool grid);
std::string draw_y_axis(const Frame& frame, const Axis& axis, const std::string& label);

/// 'name="value"' with all digits, a space before it.
std::string number_attribute(const char* name, double value);

}  // namespace kokomoe::plot
