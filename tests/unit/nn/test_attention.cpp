// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/nn/attention.hpp"
#include "support/catch.hpp"
#include "support/packed_step.hpp"

#include <numeric>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// One attention layer with random parameters, biases too.
struct Layer {
  Layer(const AttentionConfig& config, bool turn, std::uint64_t seed = 13)
      : rotary(ExecutionSpace(), 200, config.d_model / config.heads),
        attention(config, turn ? &rotary : nullptr, store, "attention") {
    store.allocate(ExecutionSpace(), 1);
    Draw draw(seed);
    for (const auto& entry : store.entries())
      fill_device(store.value_vector(store.find(entry.spec.name)),
                  draw.many<double>(entry.size, 0.7));
  }
  ParameterStore<double> store;
  Rotary<double> rotary;
  Attention<double> attention;
};

}  // namespace

TEST_CASE("an attention layer's gradients are those of central differences", "[nn]") {
  const bool turn = GENERATE(true, false);
  const double dropout = GENERATE(0.0, 0.25);
  const std::size_t d = 8;
  AttentionConfig config{static_cast<int>(d), 2, true, dropout, 1, 3};
  Layer layer(config, turn);
  REQUIRE(layer.store.entries().size() == 4);
  PackedStep step({1, 5, 33, 70, 130});
  Draw draw(14);
  const Matrix<double> x = device_matrix(step.tokens(), d, draw.many<double>(step.tokens() * d));
  const std::vector<double> weight = draw.many<double>(step.tokens() * d);
  const Matrix<double> dy = device_matrix(step.tokens(), d, weight);
  const Matrix<double> y("y", step.tokens(), d), dx("dx", step.tokens(), d);
  Attention<double>::Saved saved;
  const auto loss = [&]() {
    step.reset();
    layer.attention.forward(step.ctx, x, y, saved);
    const std::vector<double> values = on_host(y);
    return std::inner_product(values.begin(), values.end(), weight.begin(), 0.0);
  };
  loss();
  layer.store.begin_update();
  layer.attention.backward(step.ctx, saved, dy, dx);
  CHECK(worst_difference(x, on_host(dx), loss, 100) < 1e-7);
  for (const auto& entry : layer.store.entries()) {
    INFO(entry.spec.name);
    const ParameterHandle handle = layer.store.find(entry.spec.name);
    CHECK(worst_difference(layer.store.value_vector(handle),
                           on_host(layer.store.gradient_vector(handle)), loss, 60) < 1e-7);
  }
}

TEST_CASE("attention with a cache gives what attention over all tokens gives", "[nn]") {
  const bool turn = GENERATE(true, false);
  const std::size_t d = 12, length = 100;
  Layer layer({static_cast<int>(d), 3, true, 0.5, 1, 0}, turn);  // dropout: off in evaluation
  PackedStep all({100});
  all.ctx.training = false;
  Draw draw(15);
  const std::vector<double> input = draw.many<double>(length * d);
  const Matrix<double> y("y", length, d);
  Attention<double>::Saved saved;
  layer.attention.forward(all.ctx, device_matrix(length, d, input), y, saved);
  const std::vector<double> expected = on_host(y);

  // Two sequences in step: the second one, in other chunks, must not disturb the first.
  const std::vector<std::vector<int>> chunks =
      GENERATE(std::vector<std::vector<int>>{{1, 1}, {1, 2}, {31, 3}, {35, 0}, {32, 60}},
               std::vector<std::vector<int>>{{70, 64}, {1, 1}, {1, 1}, {1, 1}, {27, 33}});
  KeyValueCache<double> cache;
  cache.length = static_cast<int>(length);
  cache.rows = device_matrix(2 * length, 2 * d, std::vector<double>(4 * length * d, 1e9));
  int done[2] = {0, 0};
  for (const std::vector<int>& chunk : chunks) {
    const int total = chunk[0] + chunk[1];
    std::vector<int> position;
    std::vector<double> part;
    for (std::size_t s = 0; s < 2; ++s)
      for (int i = 0; i < chunk[s]; ++i) {
        position.push_back(done[s] + i);
        const auto from = static_cast<std::ptrdiff_t>(d) * (done[s] + i);
        part.insert(part.end(), input.begin() + from,
                    input.begin() + from + static_cast<std::ptrdiff_t>(d));
      }
    PackedStep step({}, {}, {0, chunk[0], total},
                    std::vector<std::uint32_t>(static_cast<std::size_t>(total), 0), position);
    step.ctx.training = false;
    const Matrix<double> out("out", static_cast<std::size_t>(total), d);
    layer.attention.forward_cached(
        step.ctx, device_matrix(static_cast<std::size_t>(total), d, part), out, cache);
    const std::vector<double> found = on_host(out);
    std::vector<double> wanted;
    for (const int p : position)
      wanted.insert(wanted.end(), expected.begin() + static_cast<std::ptrdiff_t>(d) * p,
                    expected.begin() + static_cast<std::ptrdiff_t>(d) * (p + 1));
    CHECK(worst_error(found, wanted) < 1e-12);
    done[0] += chunk[0];
    done[1] += chunk[1];
  }
  CHECK(done[0] == 100);
}

TEST_CASE("an attention layer refuses heads that do not divide the channels", "[nn]") {
  ParameterStore<double> store;
  CHECK_THAT(message_of<InputError>([&] {
               Attention<double>({8, 3, false, 0, 1, 0}, nullptr, store, "blocks.2.attention");
             }),
             contains("blocks.2.attention: 3 heads do not divide 8 channels"));
}
