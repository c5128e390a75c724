// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/study/line_plot.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>

namespace kokomoe {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

std::string pixel(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", value);
  return text;
}

/// One axis: where values lie in pixels.
struct Axis {
  double least = infinity, greatest = -infinity;
  double from = 0, to = 1;  ///< pixels
  bool logarithmic = false;
  std::vector<double> ticks;

  bool takes(double value) const { return std::isfinite(value) && (!logarithmic || value > 0); }
  double inner(double value) const { return logarithmic ? std::log10(value) : value; }
  void see(double value) {
    if (!takes(value)) return;
    least = std::min(least, value);
    greatest = std::max(greatest, value);
  }
  double at(double value) const {
    const double share = (inner(value) - inner(least)) / (inner(greatest) - inner(least));
    return from + share * (to - from);
  }
  void settle(int count) {
    if (logarithmic) {
      settle_logarithmic();
      return;
    }
    ticks = round_ticks(least, greatest, count);
    least = ticks.front();
    greatest = ticks.back();
  }
  /// 1, 2 and 5 of each power of ten, or the powers alone when they are many.
  void settle_logarithmic() {
    if (greatest <= least * 1.0001) {
      least /= 2;
      greatest *= 2;
    }
    const int first = static_cast<int>(std::floor(std::log10(least)));
    const int last = static_cast<int>(std::ceil(std::log10(greatest)));
    for (int power = first; power <= last; ++power)
      for (const double digit : {1.0, 2.0, 5.0}) {
        const double value = digit * std::pow(10.0, power);
        if (last - first > 3 && digit > 1) continue;
        if (value >= least * 0.999 && value <= greatest * 1.001) ticks.push_back(value);
      }
  }
};

class Picture {
 public:
  Picture(const PlotOptions& options, const std::vector<PlotLine>& lines)
      : options_(options), lines_(lines) {}

  std::string draw() {
    begin();
    y_.logarithmic = options_.log_y;
    for (const PlotLine& line : lines_)
      for (std::size_t i = 0; i < line.x.size(); ++i) {
        if (!y_.takes(line.y[i])) continue;
        x_.see(line.x[i]);
        y_.see(line.y[i]);
        if (i < line.low.size()) y_.see(line.low[i]);
        if (i < line.high.size()) y_.see(line.high[i]);
      }
    if (x_.least > x_.greatest) {
      text(options_.width / 2.0, options_.height / 2.0, "middle", "no data");
    } else {
      axes();
      for (const PlotLine& line : lines_) band(line);
      for (const PlotLine& line : lines_) curve(line);
    }
    legend();
    return out_ + "</svg>\n";
  }

 private:
  void begin() {
    bool named = false;
    for (const PlotLine& line : lines_) named = named || !line.name.empty();
    right_ = options_.width - (named ? 170.0 : 20.0);
    bottom_ = options_.height - 50.0;
    out_ = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " +
           std::to_string(options_.width) + " " + std::to_string(options_.height) +
           "\" role=\"img\" font-family=\"system-ui, sans-serif\" font-size=\"12\" "
           "fill=\"currentColor\">\n<title>" +
           xml_text(options_.title) + "</title>\n";
    out_ += "<text x=\"" + pixel(left_) + "\" y=\"18\" font-size=\"14\" font-weight=\"600\">" +
            xml_text(options_.title) + "</text>\n";
  }

  void text(double x, double y, const char* anchor, const std::string& words) {
    out_ += "<text x=\"" + pixel(x) + "\" y=\"" + pixel(y) + "\" text-anchor=\"" + anchor + "\">" +
            xml_text(words) + "</text>\n";
  }

  void rule(double x1, double y1, double x2, double y2, const char* opacity) {
    out_ += "<line x1=\"" + pixel(x1) + "\" y1=\"" + pixel(y1) + "\" x2=\"" + pixel(x2) +
            "\" y2=\"" + pixel(y2) + "\" stroke=\"currentColor\" stroke-opacity=\"" + opacity +
            "\"/>\n";
  }

  void axes() {
    x_.from = left_;
    x_.to = right_;
    y_.from = bottom_;
    y_.to = top_;
    x_.settle(7);
    y_.settle(6);
    for (const double tick : x_.ticks) {
      rule(x_.at(tick), top_, x_.at(tick), bottom_, "0.12");
      text(x_.at(tick), bottom_ + 18, "middle", number(tick));
    }
    for (const double tick : y_.ticks) {
      rule(left_, y_.at(tick), right_, y_.at(tick), "0.12");
      text(left_ - 8, y_.at(tick) + 4, "end", number(tick));
    }
    rule(left_, bottom_, right_, bottom_, "0.6");
    rule(left_, top_, left_, bottom_, "0.6");
    text((left_ + right_) / 2, bottom_ + 40, "middle", options_.x_label);
    out_ += "<text transform=\"translate(16 " + pixel((top_ + bottom_) / 2) +
            ") rotate(-90)\" text-anchor=\"middle\">" +
            xml_text(options_.y_label + (options_.log_y ? " (logarithmic)" : "")) + "</text>\n";
  }

  bool shown(const PlotLine& line, std::size_t i) const {
    return y_.takes(line.y[i]) && std::isfinite(line.x[i]);
  }

  void band(const PlotLine& line) {
    if (line.low.size() != line.y.size() || line.high.size() != line.y.size()) return;
    std::string there, back;
    const auto put = [&]() {
      if (!there.empty())
        out_ += "<path d=\"M" + there + "L" + back + "Z\" fill=\"" + plot_colour(line.colour) +
                "\" fill-opacity=\"0.18\" stroke=\"none\"/>\n";
      there.clear();
      back.clear();
    };
    for (std::size_t i = 0; i < line.x.size(); ++i) {
      if (!shown(line, i) || !y_.takes(line.low[i]) || !y_.takes(line.high[i])) {
        put();
        continue;
      }
      const std::string x = pixel(x_.at(line.x[i])) + " ";
      there += x + pixel(y_.at(line.high[i])) + " ";
      back = x + pixel(y_.at(line.low[i])) + " " + back;
    }
    put();
  }

  void curve(const PlotLine& line) {
    const std::string colour = plot_colour(line.colour);
    if (line.points) {
      for (std::size_t i = 0; i < line.x.size(); ++i)
        if (shown(line, i))
          out_ += "<circle cx=\"" + pixel(x_.at(line.x[i])) + "\" cy=\"" + pixel(y_.at(line.y[i])) +
                  "\" r=\"3.5\" fill=\"" + colour + "\"/>\n";
      return;
    }
    std::string path;
    bool pen_up = true;
    const auto to = [&](double x, double y) {
      path += (pen_up ? "M" : "L") + pixel(x) + " " + pixel(y) + " ";
      pen_up = false;
    };
    for (std::size_t i = 0; i < line.x.size();) {
      if (!shown(line, i)) {
        pen_up = true;
        ++i;
        continue;
      }
      // Points of one column of pixels: the first, the least, the greatest and the last.
      const double column = std::floor(x_.at(line.x[i]));
      std::size_t end = i, least = i, greatest = i;
      while (end < line.x.size() && shown(line, end) && std::floor(x_.at(line.x[end])) == column) {
        if (line.y[end] < line.y[least]) least = end;
        if (line.y[end] > line.y[greatest]) greatest = end;
        ++end;
      }
      std::array<std::size_t, 4> picked = {i, least, greatest, end - 1};
      std::sort(picked.begin(), picked.end());
      for (std::size_t p = 0; p < picked.size(); ++p)
        if (p == 0 || picked[p] != picked[p - 1])
          to(x_.at(line.x[picked[p]]), y_.at(line.y[picked[p]]));
      i = end;
    }
    if (!path.empty())
      out_ += "<path d=\"" + path + "\" fill=\"none\" stroke=\"" + colour +
              "\" stroke-width=\"1.8\" stroke-linejoin=\"round\"/>\n";
  }

  void legend() {
    double y = top_ + 6;
    for (const PlotLine& line : lines_) {
      if (line.name.empty()) continue;
      out_ += "<rect x=\"" + pixel(right_ + 14) + "\" y=\"" + pixel(y - 4) +
              "\" width=\"16\" height=\"5\" fill=\"" + plot_colour(line.colour) + "\"/>\n";
      text(right_ + 36, y + 3, "start", line.name);
      y += 18;
    }
  }

  const PlotOptions& options_;
  const std::vector<PlotLine>& lines_;
  std::string out_;
  Axis x_, y_;
  double left_ = 70, right_ = 0, top_ = 36, bottom_ = 0;
};

}  // namespace

std::string draw_lines(const PlotOptions& options, const std::vector<PlotLine>& lines) {
  return Picture(options, lines).draw();
}

std::vector<double> round_ticks(double least, double greatest, int count) {
  if (!(greatest > least)) {
    const double room = least == 0 ? 1 : std::abs(least) * 0.1;
    least -= room;
    greatest += room;
  }
  const double rough = (greatest - least) / std::max(1, count);
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  const double rest = rough / power;
  const double step = power * (rest <= 1     ? 1
                               : rest <= 2   ? 2
                               : rest <= 2.5 ? 2.5
                               : rest <= 5   ? 5
                                             : 10);
  const double first = std::floor(least / step + 1e-9), last = std::ceil(greatest / step - 1e-9);
  std::vector<double> ticks;
  for (double i = first; i <= last; ++i) ticks.push_back(i * step);
  return ticks;
}

std::string plot_colour(int index) {
  // Okabe and Ito's, but black, which is text, and their yellow, too light for lines on white.
  static const char* const colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                        "#56b4e9", "#e69f00", "#7f7f7f", "#8c564b"};
  return colours[static_cast<std::size_t>(index < 0 ? 0 : index) % 8];
}

std::string xml_text(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    if (c == '<')
      safe += "&lt;";
    else if (c == '>')
      safe += "&gt;";
    else if (c == '&')
      safe += "&amp;";
    else if (c == '"')
      safe += "&quot;";
    else if (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t')
      safe += "?";
    else
      safe += c;
  }
  return safe;
}

}  // namespace kokomoe
