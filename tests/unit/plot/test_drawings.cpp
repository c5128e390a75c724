// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "plot/bar_plot.hpp"
#include "plot/heat_map.hpp"
#include "plot/line_plot.hpp"
#include "plot/svg.hpp"
#include "support/catch.hpp"

#include <algorithm>
#include <limits>

using namespace kokomoe::plot;
using namespace kokomoe::test;

namespace {

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t number = 0;
  for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + what.size()))
    ++number;
  return number;
}

/// The path data of the first element whose class begins like this.
std::string path_of(const std::string& svg, const std::string& kind) {
  const auto at = svg.find("<path class=\"" + kind);
  REQUIRE(at != std::string::npos);
  const auto begin = svg.find(" d=\"", at) + 4;
  return svg.substr(begin, svg.find('"', begin) - begin);
}

}  // namespace

TEST_CASE("text is escaped, and is UTF-8 afterwards", "[plot]") {
  CHECK(escape("<a b=\"c\" d='e'>&") == "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;");
  CHECK(escape("h\u00e9 \u4e2d \U0001f600\n\t") == "h\u00e9 \u4e2d \U0001f600\n\t");
  const std::string broken = "\xef\xbf\xbd";
  CHECK(escape(std::string("a\0b\x1b", 4)) == "a" + broken + "b" + broken);
  CHECK(escape("a\xff\xc3") == "a" + broken + broken);
  CHECK(escape("\xc0\xaf") == broken + broken);               // a longer form of "/"
  CHECK(escape("\xed\xa0\x80") == broken + broken + broken);  // a surrogate
  CHECK(escape("\xf4\x90\x80\x80") == broken + broken + broken + broken);
  CHECK(valid_utf8("<\xff>") == "<" + broken + ">");
}

TEST_CASE("a curve has a vertex for each point, and a gap for what is not finite", "[plot]") {
  LinePlot plot;
  plot.curves.push_back({"a",
                         0,
                         Curve::Look::line,
                         {{0, 1}, {1, 2}, {2, nan_value}, {3, 4}, {4, nan_value}, {5, 3}, {6, 2}}});
  const std::string svg = draw(plot);
  const std::string path = path_of(svg, "curve");
  CHECK(count(path, "M") == 3);
  CHECK(count(path, "L") == 2);
  CHECK(count(path, "h0") == 1);
  // Where they lie: the x axis ends at the box' edges, the y axis has a margin of 4 % of its range.
  CHECK(svg.find("data-box=\"62 546 26 286\"") != std::string::npos);
  CHECK(svg.find("data-x0=\"0\" data-x1=\"6\" data-y0=\"0.88\" data-y1=\"4.12\"") !=
        std::string::npos);
  CHECK(path.substr(0, path.find('L')) == "M62 276.37");
}

TEST_CASE("under a logarithm zero is a gap, and is said", "[plot]") {
  LinePlot plot;
  plot.y_label = "norm";
  plot.log_y = true;
  plot.curves.push_back({"a", 0, Curve::Look::line, {{0, 1}, {1, 0}, {2, 100}, {3, 10}}});
  const std::string svg = draw(plot);
  CHECK(count(path_of(svg, "curve"), "M") == 2);
  CHECK(svg.find("norm (log scale)") != std::string::npos);
}

TEST_CASE("a band is closed, and its edges count for the axis", "[plot]") {
  LinePlot plot;
  plot.curves.push_back({"mean", 0, Curve::Look::line, {{0, 1}, {1, 1}}});
  plot.curves.push_back({"spread", 0, Curve::Look::band, {{0, 0}, {1, -3}}, {{0, 2}, {1, 5}}});
  const std::string svg = draw(plot);
  CHECK(svg.find("data-y0=\"-3.32\" data-y1=\"5.32\"") != std::string::npos);
  const std::string path = path_of(svg, "curve band");
  CHECK(count(path, "L") == 3);
  CHECK(path.back() == 'Z');
}

TEST_CASE("nothing finite is said, not left blank", "[plot]") {
  LinePlot plot;
  CHECK(draw(plot).find("no finite values") != std::string::npos);
  plot.curves.push_back({"a", 0, Curve::Look::line, {{0, nan_value}}});
  CHECK(draw(plot).find("no finite values") != std::string::npos);
}

TEST_CASE("the first styles are all different", "[plot]") {
  std::vector<std::string> looks;
  for (int style = 0; style < most_styles; ++style) {
    const std::string all = style_class(style);
    looks.push_back(all.substr(0, all.find(" r")));
  }
  std::sort(looks.begin(), looks.end());
  CHECK(std::unique(looks.begin(), looks.end()) == looks.end());
}

TEST_CASE("a heat map draws equal neighbours as one, and leaves gaps", "[plot]") {
  HeatMap map;
  map.x = {10, 20, 30};
  map.rows = 2;
  map.values = {0.1, 0.2, 5, nan_value, 1, 3.5};
  map.scale.thresholds = {1, 4};
  const std::string svg = draw(map);
  CHECK(count(path_of(svg, "cell s0"), "M") == 1);  // 0.1 and 0.2
  CHECK(count(path_of(svg, "cell s2"), "M") == 1);  // 5
  CHECK(count(path_of(svg, "cell s1"), "M") == 1);  // 1, which it reaches, and 3.5
  CHECK(count(svg, "class=\"cell") == 3);
  const std::string first = path_of(svg, "cell s0");
  CHECK(first.substr(0, first.find('H')) == "M46 26");
}

TEST_CASE("bars begin at zero, on either side", "[plot]") {
  BarPlot plot;
  plot.groups = {{"one", {{"a", 0, 2, 0.5}, {"b", 1, -1}}}, {"two", {{"a", 0, nan_value}}}};
  const std::string svg = draw(plot);
  CHECK(count(svg, "class=\"bar ") == 2);
  CHECK(count(svg, "class=\"spread\"") == 1);
  CHECK(svg.find("a: 2 \u00b1 0.5") != std::string::npos);
  plot.groups = {{"one", {{"a", 0, 2}}}};
  CHECK(draw(plot).find("data-y0=\"0\"") != std::string::npos);
}
