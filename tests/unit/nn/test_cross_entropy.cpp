// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/nn/cross_entropy.hpp"
#include "support/catch.hpp"
#include "support/packed_step.hpp"

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// The three sums, in double, from the formula.
template <class T>
std::vector<double> naive_sums(const std::vector<T>& logits, const std::vector<int>& targets,
                               std::size_t classes, double smoothing) {
  std::vector<double> sums(3, 0.0);
  for (std::size_t t = 0; t < targets.size(); ++t) {
    if (targets[t] < 0) continue;
    const T* const z = &logits[t * classes];
    double maximum = z[0], total = 0, mean = 0;
    for (std::size_t v = 0; v < classes; ++v) maximum = std::max<double>(maximum, z[v]);
    for (std::size_t v = 0; v < classes; ++v) total += std::exp(z[v] - maximum);
    const double log_sum = maximum + std::log(total);
    for (std::size_t v = 0; v < classes; ++v)
      mean += (log_sum - z[v]) / static_cast<double>(classes);
    const double likelihood = log_sum - z[targets[t]];
    sums[0] += (1 - smoothing) * likelihood + smoothing * mean;
    sums[1] += likelihood;
    sums[2] += z[targets[t]] == static_cast<T>(maximum) ? 1 : 0;
  }
  return sums;
}

struct Batch {
  explicit Batch(std::size_t classes_)
      : classes(classes_), step({40, 1, 200}, static_cast<int>(classes_)) {
    targets = on_host(step.ctx.tokens.targets);
    for (const std::size_t t : {0u, 17u, 40u, 240u}) targets[t] = -1;
    device_targets = device_vector(targets);
    step.ctx.loss_scale = 1.0 / 237;
  }
  std::size_t classes;
  PackedStep step;
  std::vector<int> targets;
  Vector<int> device_targets;
};

}  // namespace

TEMPLATE_TEST_CASE("cross-entropy's sums are the formula's, with and without smoothing", "[nn]",
                   float, double) {
  const double smoothing = GENERATE(0.0, 0.1);
  Batch batch(13);
  Draw draw(8);
  // +-8 with one row far off: the maximum has to be taken out first.
  std::vector<TestType> logits = draw.many<TestType>(batch.step.tokens() * batch.classes, 8);
  for (std::size_t v = 0; v < batch.classes; ++v) logits[3 * batch.classes + v] += TestType(3e4);
  const Matrix<TestType> z = device_matrix(batch.step.tokens(), batch.classes, logits);
  const Vector<double> sums("sums", CrossEntropySums::width);
  cross_entropy<TestType>(batch.step.ctx, z, batch.device_targets, smoothing, false, sums);
  const std::vector<double> expected = naive_sums(logits, batch.targets, batch.classes, smoothing);
  const std::vector<double> found = on_host(sums);
  const double tolerance = sizeof(TestType) == 4 ? 1e-6 : 1e-13;
  CHECK(std::abs(found[0] / expected[0] - 1) < tolerance);
  CHECK(std::abs(found[1] / expected[1] - 1) < tolerance);
  CHECK(found[2] == expected[2]);
  CHECK(expected[2] > 0);
  CHECK(on_host(z) == logits);  // without `gradient` they stay
}

TEST_CASE("cross-entropy's gradient is that of central differences, scaled", "[nn]") {
  const double smoothing = GENERATE(0.0, 0.2);
  Batch batch(9);
  Draw draw(9);
  const std::vector<double> logits = draw.many<double>(batch.step.tokens() * batch.classes, 3);
  const Matrix<double> z = device_matrix(batch.step.tokens(), batch.classes, logits);
  const Vector<double> sums("sums", CrossEntropySums::width);
  const auto loss = [&]() {
    cross_entropy<double>(batch.step.ctx, z, batch.device_targets, smoothing, false, sums);
    return on_host(sums)[0] * batch.step.ctx.loss_scale;
  };
  const Matrix<double> g = device_matrix(batch.step.tokens(), batch.classes, logits);
  cross_entropy<double>(batch.step.ctx, g, batch.device_targets, smoothing, true, sums);
  const std::vector<double> gradient = on_host(g);
  CHECK(worst_difference(z, gradient, loss, 300) < 1e-6);
  for (std::size_t t = 0; t < batch.targets.size(); ++t) {
    double sum = 0;
    for (std::size_t v = 0; v < batch.classes; ++v) {
      if (batch.targets[t] < 0) REQUIRE(gradient[t * batch.classes + v] == 0);
      sum += gradient[t * batch.classes + v];
    }
    REQUIRE(std::abs(sum) < 1e-16);  // a softmax does not feel a common shift
  }
}

TEST_CASE("cross-entropy of no tokens and of unscored tokens only is zero", "[nn]") {
  const Vector<double> sums = device_vector<double>({5, 5, 5});
  PackedStep none({});
  cross_entropy<double>(none.ctx, Matrix<double>("z", 0, 4), none.ctx.tokens.targets, 0.1, true,
                        sums);
  CHECK(on_host(sums) == std::vector<double>{0, 0, 0});
  PackedStep three({3});
  const Matrix<double> z = device_matrix(3, 2, std::vector<double>{1, 2, 3, 4, 5, 6});
  cross_entropy<double>(three.ctx, z, device_vector<int>({-1, -1, -1}), 0.1, true, sums);
  CHECK(on_host(sums) == std::vector<double>{0, 0, 0});
  CHECK(on_host(z) == std::vector<double>(6, 0.0));
}

TEST_CASE("cross-entropy refuses targets of another length", "[nn]") {
  PackedStep step({3});
  CHECK_THAT(message_of<Error>([&] {
               cross_entropy<double>(step.ctx, Matrix<double>("z", 3, 2), Vector<int>("t", 4), 0,
                                     false, Vector<double>("s", 3));
             }),
             contains("targets"));
}

TEMPLATE_TEST_CASE("cross-entropy's loss of each sequence sums to the whole", "[nn]", float,
                   double) {
  const double smoothing = GENERATE(0.0, 0.1);
  Batch batch(13);
  const std::vector<TestType> logits =
      Draw(8).many<TestType>(batch.step.tokens() * batch.classes, 8);
  const Matrix<TestType> z = device_matrix(batch.step.tokens(), batch.classes, logits);
  const Vector<double> sums("sums", CrossEntropySums::width), each("each", 3);
  cross_entropy<TestType>(batch.step.ctx, z, batch.device_targets, smoothing, false, sums, each);
  const std::vector<double> found = on_host(each);
  CHECK(found[0] + found[1] + found[2] == Approx(on_host(sums)[0]).epsilon(1e-13));
  CHECK(found[1] == 0);  // its only token is not scored
  std::vector<int> middle = batch.targets;
  for (std::size_t t = 40; t < middle.size(); ++t) middle[t] = -1;
  const double tolerance = sizeof(TestType) == 4 ? 1e-6 : 1e-13;
  CHECK(found[0] ==
        Approx(naive_sums(logits, middle, batch.classes, smoothing)[0]).epsilon(tolerance));
  const Vector<double> wrong("wrong", 2);
  CHECK_THROWS_AS(cross_entropy<TestType>(batch.step.ctx, z, batch.device_targets, smoothing, false,
                                          sums, wrong),
                  Error);
}
