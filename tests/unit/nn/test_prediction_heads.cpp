// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/nn/binary_cross_entropy.hpp"
#include "kokomoe/nn/gelu_linear.hpp"
#include "kokomoe/nn/sample_classes.hpp"
#include "support/catch.hpp"
#include "support/packed_step.hpp"

#include <cmath>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// Probabilities of softmax(logits / temperature), one row.
std::vector<double> softmax(const std::vector<double>& logits, double temperature) {
  const double maximum = *std::max_element(logits.begin(), logits.end());
  std::vector<double> p;
  double sum = 0;
  for (const double z : logits) sum += std::exp((z - maximum) / temperature);
  for (const double z : logits) p.push_back(std::exp((z - maximum) / temperature) / sum);
  return p;
}

/// Chi-square of counts against probabilities, in deviations of its own distribution from its
/// mean. Classes of fewer than ten expected draws count as one.
double chi_square(const std::vector<int>& counts, const std::vector<double>& p, double draws) {
  double sum = 0, rare = 0, rare_count = 0, freedom = -1;
  for (std::size_t v = 0; v < p.size(); ++v) {
    const double expected = p[v] * draws;
    if (expected < 10) {
      rare += expected;
      rare_count += counts[v];
      continue;
    }
    sum += (counts[v] - expected) * (counts[v] - expected) / expected;
    ++freedom;
  }
  if (rare > 1) {
    sum += (rare_count - rare) * (rare_count - rare) / rare;
    ++freedom;
  }
  return (sum - freedom) / std::sqrt(2 * freedom);
}

}  // namespace

TEST_CASE("GeluLinear's values and gradients", "[nn]") {
  const std::size_t inputs = 5, outputs = 7;
  PackedStep step({3, 1, 140});
  ParameterStore<double> store;
  const GeluLinear<double> layer(static_cast<int>(inputs), static_cast<int>(outputs), store,
                                 "dense");
  store.allocate(step.ctx.space, 1);
  Draw draw(2);
  for (const auto& entry : store.entries())
    fill_device(store.value_vector(store.find(entry.spec.name)), draw.many<double>(entry.size));
  const std::vector<double> input = draw.many<double>(step.tokens() * inputs),
                            weight = draw.many<double>(step.tokens() * outputs);
  const Matrix<double> x = device_matrix(step.tokens(), inputs, input),
                       dy = device_matrix(step.tokens(), outputs, weight);
  const Matrix<double> y("y", step.tokens(), outputs), dx("dx", step.tokens(), inputs);
  GeluLinear<double>::Saved saved;
  const auto loss = [&]() {
    step.reset();
    layer.forward(step.ctx, x, y, saved);
    const std::vector<double> values = on_host(y);
    double sum = 0;
    for (std::size_t i = 0; i < values.size(); ++i) sum += weight[i] * values[i];
    return sum;
  };
  loss();
  const auto w = on_host(store.value_vector(store.find("dense.weight"))),
             b = on_host(store.value_vector(store.find("dense.bias")));
  std::vector<double> expected(step.tokens() * outputs);
  for (std::size_t t = 0; t < step.tokens(); ++t)
    for (std::size_t o = 0; o < outputs; ++o) {
      double h = b[o];
      for (std::size_t i = 0; i < inputs; ++i) h += w[o * inputs + i] * input[t * inputs + i];
      expected[t * outputs + o] = h * 0.5 * std::erfc(-h / std::sqrt(2.0));
    }
  CHECK(worst_error(on_host(y), expected) < 1e-14);
  store.begin_update();
  layer.backward(step.ctx, saved, dy, dx);
  CHECK(worst_difference(x, on_host(dx), loss) < 1e-7);
  loss();
  for (const auto& entry : store.entries()) {
    INFO(entry.spec.name);
    const ParameterHandle handle = store.find(entry.spec.name);
    CHECK(worst_difference(store.value_vector(handle), on_host(store.gradient_vector(handle)),
                           loss) < 1e-7);
  }
}

TEMPLATE_TEST_CASE("binary cross-entropy's sums and gradient are the formula's", "[nn]", float,
                   double) {
  PackedStep step({40, 1, 200});
  step.ctx.update_tokens = 300;
  const std::size_t tokens = step.tokens();
  Draw draw(5);
  std::vector<TestType> logits = draw.many<TestType>(tokens, 6);
  std::vector<int> labels(tokens);
  for (std::size_t t = 0; t < tokens; ++t) labels[t] = t % 3 == 0 ? 1 : 0;
  // Where exp overflows, where nothing is told, and where all digits of 1 + exp are lost.
  logits[0] = TestType(-9000), logits[1] = TestType(9000), logits[2] = TestType(0),
  logits[3] = TestType(60), logits[4] = TestType(-60);
  std::vector<double> expected(4, 0.0), gradient(tokens), each(3, 0.0);
  for (std::size_t t = 0; t < tokens; ++t) {
    const double z = logits[t];
    const double loss = std::max(z, 0.0) - labels[t] * z + std::log1p(std::exp(-std::abs(z)));
    expected[0] += loss;
    each[t < 40 ? 0 : t < 41 ? 1 : 2] += loss;
    expected[1] += (z > 0) == (labels[t] == 1) ? 1 : 0;
    expected[2] += labels[t];
    expected[3] += labels[t] == 1 && z > 0 ? 1 : 0;
    gradient[t] = 0.25 * (1 / (1 + std::exp(-z)) - labels[t]);
  }
  const double tolerance = std::is_same_v<TestType, double> ? 1e-13 : 1e-6;
  const Vector<int> device_labels = device_vector(labels);
  const Vector<double> sums("sums", BinarySums::width), sequences("sequences", 3);
  for (const bool layout_free : {false, true}) {
    step.ctx.layout_free = layout_free;
    const Matrix<TestType> z = device_matrix(tokens, 1, logits);
    binary_cross_entropy<TestType>(step.ctx, z, device_labels, 0.25, false, sums);
    CHECK(on_host(z) == logits);
    CHECK(on_host(sums)[0] == Approx(expected[0]).epsilon(layout_free ? 1e-6 : tolerance));
    for (std::size_t i = 1; i < 4; ++i) CHECK(on_host(sums)[i] == expected[i]);
    binary_cross_entropy<TestType>(step.ctx, z, device_labels, 0.25, true, sums, sequences);
    CHECK(worst_error(on_host(z), gradient) < tolerance);
    CHECK(worst_error(on_host(sequences), each) < tolerance);
  }
  logits[7] = std::numeric_limits<TestType>::quiet_NaN();
  step.ctx.layout_free = false;
  binary_cross_entropy<TestType>(step.ctx, device_matrix(tokens, 1, logits), device_labels, 1,
                                 false, sums);
  CHECK(std::isnan(on_host(sums)[0]));
  CHECK_THROWS_AS(binary_cross_entropy<TestType>(step.ctx, device_matrix(tokens, 1, logits),
                                                 device_vector<int>({1}), 1, false, sums),
                  Error);
}

TEMPLATE_TEST_CASE("classes are drawn as often as the softmax says", "[nn]", float, double) {
  // More than two chunks of classes, in a vocabulary that no chunk divides.
  const std::size_t classes = GENERATE(std::size_t(3), std::size_t(256), std::size_t(700));
  const double temperature = GENERATE(1.0, 1.5);
  PackedStep step(std::vector<int>(40, 500));
  Draw draw(classes);
  const std::vector<double> row = draw.many<double>(classes, 2);
  std::vector<TestType> logits;
  for (std::size_t t = 0; t < step.tokens(); ++t)
    logits.insert(logits.end(), row.begin(), row.end());
  const Vector<int> drawn("drawn", step.tokens());
  sample_classes<TestType>(step.ctx, Purpose::replacement, temperature,
                           device_matrix(step.tokens(), classes, logits), drawn);
  std::vector<int> counts(classes, 0);
  for (const int v : on_host(drawn)) {
    REQUIRE((v >= 0 && v < static_cast<int>(classes)));
    ++counts[static_cast<std::size_t>(v)];
  }
  const auto draws = static_cast<double>(step.tokens());
  // Five deviations: one draw in more than ten thousand would be further off, and none of these is.
  CHECK(chi_square(counts, softmax(row, temperature), draws) < 5);
  CHECK(chi_square(counts, softmax(row, temperature + 0.5), draws) > 5);
}

TEST_CASE("a class is where the sum of probabilities passes the token's draw", "[nn]") {
  constexpr std::size_t classes = 700;
  PackedStep step({3, 50, 1});
  Draw draw(3);
  const std::vector<double> logits = draw.many<double>(step.tokens() * classes, 4);
  const Matrix<double> z = device_matrix(step.tokens(), classes, logits);
  const Vector<int> drawn("drawn", step.tokens());
  sample_classes<double>(step.ctx, Purpose::replacement, 0.7, z, drawn);
  const std::vector<int> first = on_host(drawn);
  const PhiloxStream stream(step.ctx.seed, Purpose::replacement, step.ctx.step, 0, 0);
  const auto sequence = on_host(step.ctx.tokens.sequence_index);
  const auto position = on_host(step.ctx.tokens.position);
  for (std::size_t t = 0; t < step.tokens(); ++t) {
    const auto p = softmax({logits.begin() + static_cast<std::ptrdiff_t>(t * classes),
                            logits.begin() + static_cast<std::ptrdiff_t>((t + 1) * classes)},
                           0.7);
    const double u =
        stream.uniform<double>(sequence[t], static_cast<std::uint32_t>(position[t]), 0);
    std::size_t v = 0;
    for (double sum = p[0]; sum <= u; sum += p[v]) ++v;
    CHECK(first[t] == static_cast<int>(v));
  }
  step.ctx.step += 1;
  sample_classes<double>(step.ctx, Purpose::replacement, 0.7, z, drawn);
  CHECK(on_host(drawn) != first);
}

TEST_CASE("draws from rows at the ends of what numbers there are", "[nn]") {
  constexpr std::size_t classes = 300;
  const double infinity = std::numeric_limits<double>::infinity();
  PackedStep step({4});
  std::vector<double> logits(4 * classes, -infinity);
  logits[0 * classes + 299] = -1e300;  // the only one
  logits[1 * classes + 17] = 1e300;
  for (std::size_t v = 0; v < classes; ++v) logits[2 * classes + v] = infinity;
  for (std::size_t v = 0; v < classes; ++v) logits[3 * classes + v] = std::nan("");
  const Vector<int> drawn("drawn", 4);
  sample_classes<double>(step.ctx, Purpose::replacement, 1, device_matrix(4, classes, logits),
                         drawn);
  const std::vector<int> all = on_host(drawn);
  CHECK(all[0] == 299);
  CHECK(all[1] == 17);
  for (const int v : all) CHECK((v >= 0 && v < static_cast<int>(classes)));
  CHECK_THROWS_AS(sample_classes<double>(step.ctx, Purpose::replacement, 1,
                                         device_matrix(4, classes, logits), Vector<int>("few", 3)),
                  Error);
}
