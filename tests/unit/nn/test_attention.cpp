// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/nn/attention.hpp"
#include "support/bfloat16.hpp"
#include "support/catch.hpp"
#include "support/packed_step.hpp"

#include <cmath>
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

// Loops over the definition, in which queries, keys and values are rounded before they are used.
TEST_CASE("attention uses the rounded queries, keys and values that it keeps", "[nn]") {
  constexpr std::size_t d = 8, heads = 2, width = d / heads, length = 17;
  Layer layer({static_cast<int>(d), static_cast<int>(heads), true, 0, 1, 3}, false);
  PackedStep step({static_cast<int>(length)});
  step.ctx.round_kept = true;
  Draw draw(16);
  const std::vector<double> x = draw.many<double>(length * d), dy = draw.many<double>(length * d);
  const Matrix<double> y("y", length, d), dx("dx", length, d);
  Attention<double>::Saved saved;
  const Matrix<double> input = device_matrix(length, d, x);
  layer.attention.forward(step.ctx, input, y, saved);
  layer.store.begin_update();
  layer.attention.backward(step.ctx, saved, device_matrix(length, d, dy), dx);

  const auto tensor = [&](const char* name) {
    return on_host(layer.store.value_vector(layer.store.find(name)));
  };
  const auto w = tensor("attention.qkv.weight"), b = tensor("attention.qkv.bias");
  const auto wo = tensor("attention.out.weight"), bo = tensor("attention.out.bias");
  const auto nearest = [](double z) { return nearest_bfloat16(static_cast<float>(z)); };
  std::vector<double> qkv(length * 3 * d), d_qkv(qkv.size()), p(heads * length * length);
  std::vector<double> head(length * d), d_head(length * d), out(length * d), d_in(length * d);
  std::vector<double> d_wo(d * d), d_w(3 * d * d);
  for (std::size_t t = 0; t < length; ++t)
    for (std::size_t j = 0; j < 3 * d; ++j) {
      double sum = b[j];
      for (std::size_t i = 0; i < d; ++i) sum += w[j * d + i] * x[t * d + i];
      qkv[t * 3 * d + j] = nearest(sum);
    }
  const double scale = 1 / std::sqrt(static_cast<double>(width));
  for (std::size_t h = 0; h < heads; ++h)
    for (std::size_t t = 0; t < length; ++t) {
      double* const row = &p[(h * length + t) * length];
      double total = 0;
      for (std::size_t s = 0; s <= t; ++s) {
        double score = 0;
        for (std::size_t i = h * width; i < (h + 1) * width; ++i)
          score += scale * qkv[t * 3 * d + i] * qkv[s * 3 * d + d + i];
        total += row[s] = std::exp(score);
      }
      for (std::size_t s = 0; s <= t; ++s) {
        row[s] /= total;
        for (std::size_t i = h * width; i < (h + 1) * width; ++i)
          head[t * d + i] += row[s] * qkv[s * 3 * d + 2 * d + i];
      }
    }
  for (std::size_t t = 0; t < length; ++t)
    for (std::size_t c = 0; c < d; ++c) {
      out[t * d + c] = bo[c];
      for (std::size_t i = 0; i < d; ++i) {
        out[t * d + c] += wo[c * d + i] * head[t * d + i];
        d_wo[c * d + i] += dy[t * d + c] * head[t * d + i];
        d_head[t * d + i] += dy[t * d + c] * wo[c * d + i];
      }
    }
  for (std::size_t h = 0; h < heads; ++h)
    for (std::size_t t = 0; t < length; ++t) {
      double mean = 0;
      for (std::size_t i = h * width; i < (h + 1) * width; ++i)
        mean += d_head[t * d + i] * head[t * d + i];
      for (std::size_t s = 0; s <= t; ++s) {
        const double probability = p[(h * length + t) * length + s];
        double dp = 0;
        for (std::size_t i = h * width; i < (h + 1) * width; ++i) {
          dp += d_head[t * d + i] * qkv[s * 3 * d + 2 * d + i];
          d_qkv[s * 3 * d + 2 * d + i] += probability * d_head[t * d + i];
        }
        const double ds = scale * probability * (dp - mean);
        for (std::size_t i = h * width; i < (h + 1) * width; ++i) {
          d_qkv[t * 3 * d + i] += ds * qkv[s * 3 * d + d + i];
          d_qkv[s * 3 * d + d + i] += ds * qkv[t * 3 * d + i];
        }
      }
    }
  for (std::size_t t = 0; t < length; ++t)
    for (std::size_t j = 0; j < 3 * d; ++j)
      for (std::size_t i = 0; i < d; ++i) {
        d_in[t * d + i] += d_qkv[t * 3 * d + j] * w[j * d + i];
        d_w[j * d + i] += d_qkv[t * 3 * d + j] * x[t * d + i];
      }
  const auto gradient = [&](const char* name) {
    return on_host(layer.store.gradient_vector(layer.store.find(name)));
  };
  CHECK(worst_error(on_host(y), out, 1.0) < 1e-12);
  CHECK(worst_error(on_host(dx), d_in, 1.0) < 1e-12);
  CHECK(worst_error(gradient("attention.out.weight"), d_wo, 1.0) < 1e-12);
  CHECK(worst_error(gradient("attention.qkv.weight"), d_w, 1.0) < 1e-12);

  // Evaluation does not look at what nobody will need.
  step.ctx.training = false;
  layer.attention.forward(step.ctx, input, y, saved);
  const std::vector<double> rounded = on_host(y);
  step.ctx.round_kept = false;
  layer.attention.forward(step.ctx, input, y, saved);
  CHECK(on_host(y) == rounded);
  CHECK(worst_error(rounded, out, 1.0) > 1e-4);
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
