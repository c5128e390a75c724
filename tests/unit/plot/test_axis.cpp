// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "plot/axis.hpp"
#include "support/catch.hpp"

#include <cmath>
#include <limits>

using namespace kokomoe::plot;
using namespace kokomoe::test;

namespace {

std::vector<std::string> labels(const Axis& axis, int most) {
  std::vector<std::string> result;
  for (const Tick& tick : axis.ticks(most))
    if (!tick.label.empty()) result.push_back(tick.label);
  return result;
}

using Labels = std::vector<std::string>;

}  // namespace

TEST_CASE("ticks are round, inside, and all written alike", "[plot]") {
  CHECK(labels(Axis(0, 120), 6) == Labels{"0", "20", "40", "60", "80", "100", "120"});
  CHECK(labels(Axis(1.94, 5.6), 6) == Labels{"2", "3", "4", "5"});
  CHECK(labels(Axis(0.17, 0.46), 6) == Labels{"0.20", "0.25", "0.30", "0.35", "0.40", "0.45"});
  CHECK(labels(Axis(-1, 1), 4) == Labels{"\u22121.0", "\u22120.5", "0.0", "0.5", "1.0"});
  CHECK(labels(Axis(0, 20000), 6) == Labels{"0", "5k", "10k", "15k", "20k"});
  CHECK(labels(Axis(11000, 12000), 4) == Labels{"11.0k", "11.5k", "12.0k"});
  CHECK(labels(Axis(0, 3e-4), 3) ==
        Labels{"0", "10\u207b\u2074", "2\u00d710\u207b\u2074", "3\u00d710\u207b\u2074"});
  for (const double scale : {1e-12, 1e-3, 0.7, 1.0, 33.0, 1e9, 1e20}) {
    for (const double from : {-1.0, 0.0, 0.3, 5.0}) {
      const Axis axis(from * scale, (from + 1) * scale);
      const std::vector<Tick> ticks = axis.ticks(6);
      CHECK(ticks.size() >= 2);
      CHECK(ticks.size() <= 7);
      for (const Tick& tick : ticks) {
        CHECK(axis.fraction(tick.value) > -1e-6);
        CHECK(axis.fraction(tick.value) < 1 + 1e-6);
      }
    }
  }
}

TEST_CASE("a logarithmic axis has powers of ten, and more where there are few", "[plot]") {
  CHECK(labels(Axis(0.01, 1000, true), 6) == Labels{"0.01", "0.1", "1", "10", "100", "1000"});
  CHECK(labels(Axis(1.5, 80, true), 6) == Labels{"2", "5", "10", "20", "50"});
  CHECK(labels(Axis(1e-12, 1, true), 6) == Labels{"10\u207b\u00b9\u00b2", "10\u207b\u00b9\u2070",
                                                  "10\u207b\u2078", "10\u207b\u2076",
                                                  "10\u207b\u2074", "0.01", "1"});
  CHECK(labels(Axis(3.1, 4.6, true), 4) == Labels{"3.5", "4.0", "4.5"});
  const Axis axis(1, 100, true);
  CHECK(axis.fraction(10) == Approx(0.5));
  CHECK(std::isnan(axis.fraction(0)));
  CHECK(std::isnan(axis.fraction(-1)));
}

TEST_CASE("an axis over nothing, or over one value, can be drawn", "[plot]") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  for (const bool log : {false, true}) {
    for (const auto& [low, high] :
         {std::pair(nan, nan), std::pair(infinity, -infinity), std::pair(0.0, 0.0),
          std::pair(3.0, 3.0), std::pair(-2.0, -2.0), std::pair(0.0, 5.0)}) {
      INFO(low << " to " << high << (log ? ", log" : ""));
      const Axis axis(low, high, log, 0.04);
      CHECK(std::isfinite(axis.low()));
      CHECK(axis.high() > axis.low());
      CHECK((!log || axis.low() > 0));
      CHECK_FALSE(axis.ticks(6).empty());
    }
  }
  CHECK(Axis(3, 3).fraction(3) == Approx(0.5));
}

TEST_CASE("numbers are written short", "[plot]") {
  CHECK(number_text(0) == "0");
  CHECK(number_text(0.05) == "0.05");
  CHECK(number_text(1.2345678) == "1.235");
  CHECK(number_text(9999) == "9999");
  CHECK(number_text(12345) == "12.35k");
  CHECK(number_text(2e6) == "2M");
  CHECK(number_text(-0.5) == "\u22120.5");
  CHECK(number_text(1e-5) == "10\u207b\u2075");
  CHECK(number_text(-2.5e-7) == "\u22122.5\u00d710\u207b\u2077");
  CHECK(number_text(9.99999e-5) == "10\u207b\u2074");
  CHECK(number_text(std::numeric_limits<double>::infinity()) == "\u2013");
}
