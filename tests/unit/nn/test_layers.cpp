// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/nn/embedding.hpp"
#include "kokomoe/nn/linear.hpp"
#include "kokomoe/nn/norm.hpp"
#include "kokomoe/nn/rotary.hpp"
#include "support/catch.hpp"
#include "support/packed_step.hpp"

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

constexpr double tolerance = 1e-7;  // of central differences with h = 1e-5

/// sum of weight * y: a loss whose gradient by y is `weight`.
double weighted_sum(const Matrix<double>& y, const std::vector<double>& weight) {
  const std::vector<double> values = on_host(y);
  double sum = 0;
  for (std::size_t i = 0; i < values.size(); ++i) sum += weight[i] * values[i];
  return sum;
}

void randomize(ParameterStore<double>& store, Draw& draw) {
  for (const auto& entry : store.entries())
    fill_device(store.value_vector(store.find(entry.spec.name)), draw.many<double>(entry.size));
}

/// Every parameter of the store against central differences of `loss`.
template <class Loss>
void check_parameters(ParameterStore<double>& store, const Loss& loss) {
  for (const auto& entry : store.entries()) {
    INFO(entry.spec.name);
    const ParameterHandle handle = store.find(entry.spec.name);
    CHECK(worst_difference(store.value_vector(handle), on_host(store.gradient_vector(handle)),
                           loss) < tolerance);
  }
}

}  // namespace

TEST_CASE("Linear's gradients are those of central differences", "[nn]") {
  const bool bias = GENERATE(true, false);
  const std::size_t inputs = 5, outputs = 7;
  PackedStep step({3, 1, 140});  // more rows than a tile of column_sum
  ParameterStore<double> store;
  const Linear<double> linear(static_cast<int>(inputs), static_cast<int>(outputs), bias, store,
                              "layer");
  REQUIRE(store.entries().size() == (bias ? 2u : 1u));
  store.allocate(step.ctx.space, 1);
  Draw draw(2);
  randomize(store, draw);
  const Matrix<double> x =
      device_matrix(step.tokens(), inputs, draw.many<double>(step.tokens() * inputs));
  const std::vector<double> weight = draw.many<double>(step.tokens() * outputs);
  const Matrix<double> dy = device_matrix(step.tokens(), outputs, weight);
  const Matrix<double> y("y", step.tokens(), outputs), dx("dx", step.tokens(), inputs);
  const auto loss = [&]() {
    linear.forward(step.ctx, x, y);
    return weighted_sum(y, weight);
  };
  loss();
  store.begin_update();
  linear.backward(step.ctx, x, dy, dx);
  CHECK(worst_difference(x, on_host(dx), loss) < tolerance);
  check_parameters(store, loss);

  // A second backward of the same update adds, to the parameters and, when asked to, to dx.
  const std::vector<double> once = on_host(store.gradient(store.find("layer.weight")));
  const std::vector<double> dx_once = on_host(dx);
  linear.backward(step.ctx, x, dy, dx, true);
  const std::vector<double> twice = on_host(store.gradient(store.find("layer.weight")));
  const std::vector<double> dx_twice = on_host(dx);
  for (std::size_t i = 0; i < once.size(); ++i) CHECK(twice[i] == Approx(2 * once[i]));
  for (std::size_t i = 0; i < dx_once.size(); ++i) REQUIRE(dx_twice[i] == Approx(2 * dx_once[i]));
}

TEST_CASE("norms give the formula's values and the gradients of central differences", "[nn]") {
  const NormKind kind = GENERATE(NormKind::layer, NormKind::rms);
  const std::size_t d = 9;
  PackedStep step({4, 1, 130});
  ParameterStore<double> store;
  const Norm<double> norm(kind, static_cast<int>(d), store, "norm");
  REQUIRE(store.entries().size() == (kind == NormKind::layer ? 2u : 1u));
  store.allocate(step.ctx.space, 1);
  Draw draw(3);
  randomize(store, draw);
  std::vector<double> input = draw.many<double>(step.tokens() * d);
  for (std::size_t j = 0; j < d; ++j) input[2 * d + j] = 0;  // a row without variance
  const Matrix<double> x = device_matrix(step.tokens(), d, input);
  const std::vector<double> weight = draw.many<double>(step.tokens() * d);
  const Matrix<double> dy = device_matrix(step.tokens(), d, weight);
  const Matrix<double> y("y", step.tokens(), d);
  Norm<double>::Saved saved;
  const auto loss = [&]() {
    step.reset();
    norm.forward(step.ctx, x, y, saved);
    return weighted_sum(y, weight);
  };
  loss();

  const auto gain = on_host(store.value_vector(store.find("norm.weight")));
  const auto shift = kind == NormKind::layer ? on_host(store.value_vector(store.find("norm.bias")))
                                             : std::vector<double>(d, 0.0);
  std::vector<double> expected(input.size());
  for (std::size_t t = 0; t < step.tokens(); ++t) {
    const double* const row = &input[t * d];
    double mean = 0, square = 0;
    for (std::size_t j = 0; j < d; ++j) mean += row[j] / static_cast<double>(d);
    if (kind == NormKind::rms) mean = 0;
    for (std::size_t j = 0; j < d; ++j)
      square += (row[j] - mean) * (row[j] - mean) / static_cast<double>(d);
    const double deviation = std::sqrt(square + (kind == NormKind::layer ? 1e-5 : 1e-6));
    for (std::size_t j = 0; j < d; ++j)
      expected[t * d + j] = (row[j] - mean) / deviation * gain[j] + shift[j];
  }
  CHECK(worst_error(on_host(y), expected) < 1e-14);

  // backward ADDS to dx.
  const std::vector<double> residual = draw.many<double>(input.size());
  const Matrix<double> dx = device_matrix(step.tokens(), d, residual);
  store.begin_update();
  norm.backward(step.ctx, saved, dy, dx);
  std::vector<double> gradient = on_host(dx);
  for (std::size_t i = 0; i < gradient.size(); ++i) gradient[i] -= residual[i];
  // The zero row's curvature is of the size 1 / epsilon: it needs a small step of its own.
  std::vector<double> zero_row(gradient.begin() + 2 * d, gradient.begin() + 3 * d);
  const Vector<double> zero_view(x.data() + 2 * d, d);
  CHECK(worst_difference(zero_view, zero_row, loss, d, 1e-3, 1e-8) < 1e-4);
  const Vector<double> first_rows(x.data(), 2 * d), last_rows(x.data() + 3 * d, x.size() - 3 * d);
  CHECK(worst_difference(first_rows, {gradient.begin(), gradient.begin() + 2 * d}, loss) <
        tolerance);
  CHECK(worst_difference(last_rows, {gradient.begin() + 3 * d, gradient.end()}, loss) < tolerance);
  loss();
  check_parameters(store, loss);
}

TEST_CASE("norm names are parsed or refused with the choices", "[nn]") {
  CHECK(parse_norm("layer_norm") == NormKind::layer);
  CHECK(parse_norm("rms_norm") == NormKind::rms);
  CHECK_THAT(message_of<InputError>([] { parse_norm("rms"); }), contains("layer_norm or rms_norm"));
}

TEST_CASE("Embedding looks up rows and sums their gradients over tokens", "[nn]") {
  const std::size_t d = 6;
  const int rows = 11;
  PackedStep step({5, 1, 300}, rows - 2);  // the last two rows are never used
  ParameterStore<double> store;
  const Embedding<double> embedding(rows, static_cast<int>(d), 0.5, store, "table");
  store.allocate(step.ctx.space, 1);
  Draw draw(4);
  randomize(store, draw);
  const std::vector<double> weight = draw.many<double>(step.tokens() * d);
  const Matrix<double> dy = device_matrix(step.tokens(), d, weight);
  const Matrix<double> y("y", step.tokens(), d);
  const auto loss = [&]() {
    embedding.forward(step.ctx, step.ctx.tokens.ids, y, false);
    return weighted_sum(y, weight);
  };
  loss();
  const std::vector<int> ids = on_host(step.ctx.tokens.ids);
  const std::vector<double> table = on_host(store.value(embedding.handle()));
  const std::vector<double> looked_up = on_host(y);
  for (std::size_t t = 0; t < ids.size(); ++t)
    for (std::size_t j = 0; j < d; ++j)
      REQUIRE(looked_up[t * d + j] == table[static_cast<std::size_t>(ids[t]) * d + j]);

  embedding.forward(step.ctx, step.ctx.tokens.ids, y, true);
  for (std::size_t i = 0; i < looked_up.size(); ++i)
    REQUIRE(on_host(y)[i] == Approx(2 * looked_up[i]));

  // What an earlier update left is overwritten; unused rows get zero.
  fill_device(store.gradient(embedding.handle()), std::vector<double>(rows * d, 1e30));
  store.begin_update();
  embedding.backward(step.ctx, step.ctx.tokens.ids, dy);
  const std::vector<double> gradient = on_host(store.gradient(embedding.handle()));
  for (std::size_t i = (rows - 2) * d; i < rows * d; ++i) CHECK(gradient[i] == 0);
  check_parameters(store, loss);

  // The other writer of a tied table adds.
  embedding.backward(step.ctx, step.ctx.tokens.ids, dy);
  const std::vector<double> twice = on_host(store.gradient(embedding.handle()));
  for (std::size_t i = 0; i < twice.size(); ++i) CHECK(twice[i] == Approx(2 * gradient[i]));
}

TEST_CASE("Rotary turns channel pairs by position times frequency, and back", "[nn]") {
  const int heads = 3, width = 6, first = 4, columns = 4 + heads * width + 2;
  PackedStep step({1, 9, 40});
  const Rotary<double> rotary(ExecutionSpace(), 50, width);
  REQUIRE(rotary.positions() == 50);
  Draw draw(5);
  const auto n = static_cast<std::size_t>(columns);
  const std::vector<double> start = draw.many<double>(step.tokens() * n);
  const Matrix<double> x = device_matrix(step.tokens(), n, start);
  rotary.apply(step.ctx, x, first, heads, false);

  const std::vector<int> position = on_host(step.ctx.tokens.position);
  std::vector<double> expected = start;
  for (std::size_t t = 0; t < step.tokens(); ++t)
    for (int h = 0; h < heads; ++h)
      for (int j = 0; j < width / 2; ++j) {
        const double angle = position[t] * std::pow(10000.0, -2.0 * j / width);
        const std::size_t a = t * n + static_cast<std::size_t>(first + h * width + j);
        const std::size_t b = a + static_cast<std::size_t>(width / 2);
        expected[a] = start[a] * std::cos(angle) - start[b] * std::sin(angle);
        expected[b] = start[a] * std::sin(angle) + start[b] * std::cos(angle);
      }
  CHECK(worst_error(on_host(x), expected) < 1e-14);  // columns outside the heads untouched
  rotary.apply(step.ctx, x, first, heads, true);
  CHECK(worst_error(on_host(x), start) < 1e-14);
}

TEST_CASE("Rotary refuses odd head widths and positions past its table", "[nn]") {
  CHECK_THAT(message_of<InputError>([] { Rotary<double>(ExecutionSpace(), 10, 5); }), contains("even head width"));
  PackedStep step({11});
  const Rotary<double> rotary(ExecutionSpace(), 10, 4);
  const Matrix<double> x("x", 11, 4);
  CHECK_THAT(message_of<Error>([&] { rotary.apply(step.ctx, x, 0, 1, false); }),
             contains("11 tokens exceeds the 10 positions"));
}
