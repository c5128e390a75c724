// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "plot/axis.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

namespace kokomoe::plot {

namespace {

struct Unit {
  double size;
  const char* name;
};

/// Thousands and up have letters from ten thousand on: 5000 is as short as 5k and reads better.
Unit unit_of(double largest) {
  if (largest >= 1e12) return {1e12, "T"};
  if (largest >= 1e9) return {1e9, "G"};
  if (largest >= 1e6) return {1e6, "M"};
  if (largest >= 1e4) return {1e3, "k"};
  return {1, ""};
}

std::string fixed(double value, int decimals) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, std::abs(value));
  const bool zero = std::string(text).find_first_not_of("0.") == std::string::npos;
  return (value < 0 && !zero ? "\u2212" : "") + std::string(text);
}

std::string superscript(int number) {
  constexpr const char* digits[] = {"\u2070", "\u00b9", "\u00b2", "\u00b3", "\u2074",
                                    "\u2075", "\u2076", "\u2077", "\u2078", "\u2079"};
  std::string text = number < 0 ? "\u207b" : "";
  for (const char c : std::to_string(std::abs(number))) text += digits[c - '0'];
  return text;
}

/// m * 10^e with m in {1, 2, 5} that is no less than `least`.
double round_step(double least) {
  const double power = std::pow(10, std::floor(std::log10(least)));
  for (const double m : {1.0, 2.0, 5.0})
    if (m * power >= least * (1 - 1e-9)) return m * power;
  return 10 * power;
}

std::vector<Tick> linear_ticks(double low, double high, int most) {
  const double step = round_step((high - low) / std::max(most, 1));
  const double largest = std::max(std::abs(low), std::abs(high));
  std::vector<Tick> ticks;
  const Unit unit = unit_of(largest);
  const int decimals =
      std::max(0, -static_cast<int>(std::floor(std::log10(step / unit.size) + 1e-9)));
  const double first = std::ceil(low / step - 1e-9), last = std::floor(high / step + 1e-9);
  // A range that is narrow beside its values has no more ticks than doubles can tell apart.
  for (double i = first; i <= last && ticks.size() < 100; ++i) {
    const double value = i * step;
    ticks.push_back({value, largest < 1e-3 ? number_text(value)
                                           : fixed(value / unit.size, decimals) +
                                                 (value == 0 ? "" : unit.name)});
  }
  return ticks;
}

}  // namespace

Axis::Axis(double low, double high, bool log, double margin) : log_(log) {
  if (log && !(high > 0)) high = std::numeric_limits<double>::quiet_NaN();
  if (!std::isfinite(low) || !std::isfinite(high) || low > high) {
    low = log ? 0.1 : 0;
    high = 1;
  }
  if (log) {
    if (!(low > 0)) low = high * 1e-6;
    if (low == high) {
      low /= 2;
      high *= 2;
    }
    const double widen = std::exp(margin * std::log(high / low));
    low_ = low / widen;
    high_ = high * widen;
    return;
  }
  if (!(high - low > 1e-12 * std::max(std::abs(low), std::abs(high)))) {
    const double widen = low == 0 ? 1 : 0.1 * std::abs(low);
    low -= widen;
    high += widen;
  }
  low_ = low - margin * (high - low);
  high_ = high + margin * (high - low);
}

double Axis::fraction(double value) const {
  if (log_) {
    return value > 0 ? std::log(value / low_) / std::log(high_ / low_)
                     : std::numeric_limits<double>::quiet_NaN();
  }
  return (value - low_) / (high_ - low_);
}

std::vector<Tick> Axis::ticks(int most) const {
  if (!log_) return linear_ticks(low_, high_, most);
  const int first = static_cast<int>(std::floor(std::log10(low_) - 1e-9));
  const int last = static_cast<int>(std::ceil(std::log10(high_) + 1e-9));
  const double decades = std::log10(high_ / low_);
  std::vector<Tick> ticks;
  const int stride = std::max(1, static_cast<int>(std::ceil(decades / std::max(most, 1))));
  for (int e = first; e <= last; ++e) {
    for (int m = 1; m < 10; ++m) {
      const double value = m * std::pow(10, e);
      if (value < low_ * (1 - 1e-9) || value > high_ * (1 + 1e-9)) continue;
      const bool labelled = m == 1 ? e % stride == 0 : decades < 2 && (m == 2 || m == 5);
      if (labelled)
        ticks.push_back({value, number_text(value)});
      else if (decades < 5)
        ticks.push_back({value, ""});
    }
  }
  const auto with_label =
      std::count_if(ticks.begin(), ticks.end(), [](const Tick& t) { return !t.label.empty(); });
  return with_label >= 2 ? ticks : linear_ticks(low_, high_, most);
}

std::string number_text(double value) {
  if (!std::isfinite(value)) return "\u2013";
  if (value == 0) return "0";
  if (std::abs(value) < 0.9995e-3 || std::abs(value) >= 0.9995e15) {
    int exponent = static_cast<int>(std::floor(std::log10(std::abs(value))));
    double digits = value / std::pow(10, exponent);
    if (std::abs(digits) >= 9.9995) {
      digits /= 10;
      ++exponent;
    }
    std::string text = fixed(digits, 3);
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
    const std::string power = "10" + superscript(exponent);
    if (text == "1") return power;
    return text == "\u22121" ? "\u2212" + power : text + "\u00d7" + power;
  }
  const Unit unit = unit_of(std::abs(value));
  const double scaled = value / unit.size;
  const int decimals = std::max(0, 3 - static_cast<int>(std::floor(std::log10(std::abs(scaled)))));
  std::string text = fixed(scaled, decimals);
  if (text.find('.') != std::string::npos) {
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
  }
  return text + unit.name;
}

}  // namespace kokomoe::plot
