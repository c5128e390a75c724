// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "support/catch.hpp"
#include "unit/model/small_model.hpp"

#include <algorithm>
#include <limits>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// The sequences of `whole`, in another order, with the numbers they had.
std::unique_ptr<PackedStep> reordered(const PackedStep& whole, const std::vector<int>& order) {
  const auto offsets = on_host(whole.ctx.tokens.sequence_offsets);
  std::vector<int> begin{0};
  const auto take = [&](const auto& view) {
    const auto values = on_host(view);
    std::decay_t<decltype(values)> result;
    for (const int s : order)
      result.insert(result.end(), values.begin() + offsets[static_cast<std::size_t>(s)],
                    values.begin() + offsets[static_cast<std::size_t>(s) + 1]);
    return result;
  };
  for (const int s : order)
    begin.push_back(begin.back() + offsets[static_cast<std::size_t>(s) + 1] -
                    offsets[static_cast<std::size_t>(s)]);
  const PackedTokens& t = whole.ctx.tokens;
  auto step = std::make_unique<PackedStep>(take(t.ids), take(t.targets), begin,
                                           take(t.sequence_index), take(t.position));
  step->ctx.update_tokens = whole.ctx.update_tokens;
  step->ctx.loss_scale = whole.ctx.loss_scale;
  step->ctx.layout_free = whole.ctx.layout_free;
  return step;
}

template <class T>
std::vector<std::vector<T>> gradients(SmallModel<T>& small) {
  std::vector<std::vector<T>> result;
  if (small.store.sums_exactly()) small.store.round_gradients(ExecutionSpace());
  for (int i = 0; i < static_cast<int>(small.store.entries().size()); ++i)
    if (!small.store.entry({i}).spec.state)
      result.push_back(on_host(small.store.gradient_vector({i})));
  return result;
}

std::vector<DecoderConfig> configs() {
  std::vector<DecoderConfig> result{small_config("switch", 1), small_config("top_k", 2)};
  result[1].tied = !result[0].tied;
  result[1].positions = Positions::learned;
  result[1].dropout = result[1].attention_dropout = 0.2;
  result[1].moe.shared_experts = 1;
  return result;
}

}  // namespace

TEST_CASE("layout-free gradients are the gradients", "[model][layout_free]") {
  for (const DecoderConfig& config : configs()) {
    SmallModel<double> plain(config), exact(config, true);
    PackedStep step({9, 20, 0, 3}, small_vocabulary);
    const double loss = plain.loss(step, 0.1, true, {});
    const auto expected = gradients(plain);
    step.ctx.layout_free = true;
    CHECK(std::abs(exact.loss(step, 0.1, true, {}) - loss) < 1e-9 * std::abs(loss));
    const auto result = gradients(exact);
    REQUIRE(result.size() == expected.size());
    for (std::size_t i = 0; i < result.size(); ++i) {
      INFO(exact.store.entries()[i].spec.name);
      CHECK(worst_error(result[i], expected[i], 1e-3) < 1e-12);
    }
  }
}

TEMPLATE_TEST_CASE("layout-free gradients do not depend on the order of the sequences",
                   "[model][layout_free]", float, double) {
  for (const DecoderConfig& config : configs()) {
    PackedStep step({9, 20, 0, 3, 33, 7}, small_vocabulary);
    step.ctx.layout_free = true;
    SmallModel<TestType> small(config, true);
    const double loss = small.loss(step, 0, true, {});
    const auto expected = gradients(small);
    for (const std::vector<int>& order :
         {std::vector<int>{5, 4, 3, 2, 1, 0}, std::vector<int>{2, 4, 0, 5, 1, 3}}) {
      CHECK(small.loss(*reordered(step, order), 0, true, {}) == loss);
      CHECK(gradients(small) == expected);
    }
  }
}

TEST_CASE("a gradient that is out of range or not finite is NaN, and the next one is not",
          "[model][layout_free]") {
  SmallModel<float> small(small_config("switch", 1), true);
  PackedStep step({9, 20}, small_vocabulary);
  step.ctx.layout_free = true;
  const double scale = step.ctx.loss_scale;
  for (const double bad :
       {1e8, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    step.ctx.loss_scale = bad;
    small.loss(step, 0, true, {});
    const auto wrong = gradients(small);
    CHECK(std::all_of(wrong[0].begin(), wrong[0].end(), [](float g) { return std::isnan(g); }));
    step.ctx.loss_scale = scale;
    small.loss(step, 0, true, {});
    for (const auto& tensor : gradients(small))
      CHECK(std::all_of(tensor.begin(), tensor.end(), [](float g) { return std::isfinite(g); }));
  }
}

TEST_CASE("a layout-free step wants parameters that sum exactly, and the other way round",
          "[model][layout_free]") {
  PackedStep step({9}, small_vocabulary);
  SmallModel<float> plain(small_config("switch", 1)), exact(small_config("switch", 1), true);
  CHECK_THROWS_AS(exact.loss(step, 0, true, {}), Error);
  step.ctx.layout_free = true;
  CHECK_THROWS_AS(plain.loss(step, 0, true, {}), Error);
}
