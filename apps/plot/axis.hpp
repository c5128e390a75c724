// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>
#include <vector>

namespace kokomoe::plot {

/// A mark on an axis; its label is empty where only the mark is drawn.
struct Tick {
  double value = 0;
  std::string label;
};

/// The values that one direction of a plot shows, linear or logarithmic.
class Axis {
 public:
  Axis() = default;
  /// From `low` to `high`, both shown, with a margin of that share on either side. Values that are
  /// equal, not finite, or not positive under a logarithm are widened to something that can be
  /// drawn.
  Axis(double low, double high, bool log = false, double margin = 0);

  double low() const { return low_; }
  double high() const { return high_; }
  bool log() const { return log_; }

  /// 0 at low(), 1 at high(); NaN for what the axis cannot show.
  double fraction(double value) const;

  /// Round values inside, about `most` of them: 1, 2 and 5 times powers of ten.
  std::vector<Tick> ticks(int most) const;

 private:
  double low_ = 0, high_ = 1;
  bool log_ = false;
};

/// "12", "0.05", "1.5k", "20M", "3×10⁻⁵": a number as it stands beside an axis, in four digits.
std::string number_text(double value);

}  // namespace kokomoe::plot
