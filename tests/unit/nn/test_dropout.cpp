// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/nn/dropout.hpp"
#include "support/catch.hpp"
#include "support/packed_step.hpp"

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// Dropout of a matrix of ones: 0 or 1 / (1 - rate) everywhere.
template <class T>
std::vector<T> mask(const StepContext& ctx, double rate, int layer, int lane, std::size_t columns) {
  const auto tokens = static_cast<std::size_t>(ctx.tokens.tokens);
  const Matrix<T> x = device_matrix(tokens, columns, std::vector<T>(tokens * columns, T(1)));
  const Matrix<T> y("y", tokens, columns);
  dropout<T>(ctx, rate, layer, lane, x, y, false);
  return on_host(y);
}

}  // namespace

TEMPLATE_TEST_CASE("dropout keeps 1 - rate of the elements, scaled to keep the mean", "[nn]", float,
                   double) {
  PackedStep step({200, 300});
  const double rate = GENERATE(0.1, 0.5, 0.9);
  const std::size_t columns = 37;  // not a multiple of the four draws of a block
  const std::vector<TestType> m = mask<TestType>(step.ctx, rate, 2, 1, columns);
  const auto kept = static_cast<TestType>(1 / (1 - rate));
  std::size_t count = 0;
  for (const TestType value : m) {
    REQUIRE((value == TestType(0) || value == kept));
    count += value != TestType(0) ? 1 : 0;
  }
  const double n = static_cast<double>(m.size()), expected = n * (1 - rate);
  CHECK(std::abs(static_cast<double>(count) - expected) < 4 * std::sqrt(n * rate * (1 - rate)));
}

TEST_CASE("backward draws forward's mask, in place and accumulating too", "[nn]") {
  PackedStep step({5, 40});
  const std::size_t columns = 10, size = step.tokens() * columns;
  const double rate = 0.3;
  const std::vector<double> m = mask<double>(step.ctx, rate, 4, 2, columns);
  Draw draw(6);
  const std::vector<double> values = draw.many<double>(size), residual = draw.many<double>(size);
  const Matrix<double> x = device_matrix(step.tokens(), columns, values);
  const Matrix<double> y = device_matrix(step.tokens(), columns, residual);
  dropout<double>(step.ctx, rate, 4, 2, x, y, true);
  const std::vector<double> added = on_host(y);
  for (std::size_t i = 0; i < size; ++i) CHECK(added[i] == residual[i] + m[i] * values[i]);
  dropout<double>(step.ctx, rate, 4, 2, x, x, false);
  const std::vector<double> in_place = on_host(x);
  for (std::size_t i = 0; i < size; ++i) CHECK(in_place[i] == m[i] * values[i]);
}

TEST_CASE("dropout's draws differ by step, seed, layer, lane and replica, not by packing", "[nn]") {
  const std::size_t columns = 16;
  PackedStep step({6, 20});
  const std::vector<double> base = mask<double>(step.ctx, 0.5, 1, 1, columns);
  CHECK(mask<double>(step.ctx, 0.5, 1, 1, columns) == base);
  CHECK(mask<double>(step.ctx, 0.5, 2, 1, columns) != base);
  CHECK(mask<double>(step.ctx, 0.5, 1, 2, columns) != base);
  StepContext other = step.ctx;
  other.step = 4;
  CHECK(mask<double>(other, 0.5, 1, 1, columns) != base);
  other = step.ctx;
  other.seed = 4712;
  CHECK(mask<double>(other, 0.5, 1, 1, columns) != base);
  other = step.ctx;
  other.replica = 1;
  CHECK(mask<double>(other, 0.5, 1, 1, columns) != base);

  // The second sequence alone, as another micro-batch or rank would hold it.
  std::vector<std::uint32_t> index(20, 10);
  std::vector<int> position(20);
  for (int i = 0; i < 20; ++i) position[static_cast<std::size_t>(i)] = i;
  const PackedStep part({}, {}, {0, 20}, index, position);
  CHECK(mask<double>(part.ctx, 0.5, 1, 1, columns) ==
        std::vector<double>(base.begin() + 6 * columns, base.end()));
}

TEST_CASE("dropout does nothing in evaluation mode or at rate 0", "[nn]") {
  PackedStep step({7});
  Draw draw(7);
  const std::vector<double> values = draw.many<double>(7 * 3), residual = draw.many<double>(7 * 3);
  const Matrix<double> x = device_matrix(7, 3, values);
  const bool training = GENERATE(true, false);
  step.ctx.training = training;
  const double rate = training ? 0.0 : 0.5;
  const Matrix<double> y = device_matrix(7, 3, residual);
  dropout<double>(step.ctx, rate, 0, 0, x, y, true);
  const std::vector<double> added = on_host(y);
  for (std::size_t i = 0; i < values.size(); ++i) CHECK(added[i] == residual[i] + values[i]);
  dropout<double>(step.ctx, rate, 0, 0, x, y, false);
  CHECK(on_host(y) == values);
  dropout<double>(step.ctx, rate, 0, 0, x, x, false);
  CHECK(on_host(x) == values);
}

TEST_CASE("dropout says both shapes when they differ", "[nn]") {
  PackedStep step({7});
  const Matrix<double> x("x", 7, 3), y("y", 7, 4);
  const std::string message =
      message_of<Error>([&] { dropout<double>(step.ctx, 0.5, 0, 0, x, y, false); });
  CHECK_THAT(message, contains("(7, 4)"));
  CHECK_THAT(message, contains("(7, 3)"));
}
