// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "small_model.hpp"
#include "support/catch.hpp"

#include <numeric>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

struct Variant {
  const char* router;
  int k;
  double dropout;
  bool tied;
  Positions positions;
  NormKind norm;
};

}  // namespace

// Choices are replayed, so that the loss is smooth; SparseMixer's gradient is an estimate by
// design and no derivative: test_reference.cpp holds it.
TEST_CASE("a decoder's gradients, routers and both losses included, are those of differences",
          "[model]") {
  const Variant v =
      GENERATE(Variant{"top_k", 2, 0.0, true, Positions::rotary, NormKind::rms},
               Variant{"top_k", 1, 0.2, false, Positions::learned, NormKind::layer},
               Variant{"switch", 1, 0.2, true, Positions::rotary, NormKind::layer},
               Variant{"dense_mixture", 1, 0.2, false, Positions::rotary, NormKind::rms});
  INFO("router " << v.router << ", k " << v.k << ", dropout " << v.dropout);
  DecoderConfig config = small_config(v.router, v.k);
  config.dropout = config.attention_dropout = v.dropout;
  config.tied = v.tied;
  config.positions = v.positions;
  config.norm = v.norm;
  if (config.moe.router == "top_k" && v.k == 2)
    config.moe.options.set("softmax", std::string("after"));
  SmallModel<double> small(config);
  PackedStep step({1, 5, 33}, small_vocabulary);
  small.loss(step, 0.1, false, {});
  const std::vector<Routing<double>> replay = small.recorded();
  REQUIRE(replay.size() == 1);
  small.loss(step, 0.1, true, replay);
  const auto loss = [&]() { return small.loss(step, 0.1, false, replay); };
  for (const auto& entry : small.store.entries()) {
    INFO(entry.spec.name);
    const ParameterHandle handle = small.store.find(entry.spec.name);
    CHECK(worst_difference(small.store.value_vector(handle),
                           on_host(small.store.gradient_vector(handle)), loss, 30) < 1e-6);
  }
}

TEST_CASE("a block's gradient by its input is that of differences, dense and MoE", "[model]") {
  const bool sparse = GENERATE(true, false);
  const double drop = GENERATE(0.0, 0.3);
  const std::size_t d = 8;
  BlockConfig config;
  config.attention = {static_cast<int>(d), 2, true, drop, 1, 4};
  config.dropout = drop;
  config.sparse = sparse;
  config.layer = 4;
  config.moe = small_config("switch", 1).moe;
  config.moe.balance = config.moe.z_loss = 0;
  config.moe.activation = Activation::swiglu;
  ParameterStore<double> store;
  const Rotary<double> rotary(ExecutionSpace(), 40, 4);
  const Block<double> block(config, &rotary, store, "block");
  CHECK((block.moe() != nullptr) == sparse);
  store.allocate(ExecutionSpace(), 1);
  Draw draw(32);
  for (const auto& entry : store.entries())
    fill_device(store.value_vector(store.find(entry.spec.name)),
                draw.many<double>(entry.size, 0.6));
  PackedStep step({2, 35, 1});
  const Matrix<double> x = device_matrix(step.tokens(), d, draw.many<double>(step.tokens() * d));
  const std::vector<double> weight = draw.many<double>(step.tokens() * d);
  const Matrix<double> y("y", step.tokens(), d);
  Block<double>::Saved saved;
  step.reset();
  block.forward(step.ctx, x, y, saved, Vector<double>(), nullptr);
  Routing<double> replay;
  if (sparse) replay = saved.moe.routing.clone(ExecutionSpace());
  const auto loss = [&]() {
    step.reset();
    block.forward(step.ctx, x, y, saved, Vector<double>(), sparse ? &replay : nullptr);
    const std::vector<double> values = on_host(y);
    return std::inner_product(values.begin(), values.end(), weight.begin(), 0.0);
  };
  loss();
  const Matrix<double> dx = device_matrix(step.tokens(), d, weight);
  store.begin_update();
  block.backward(step.ctx, saved, dx);
  CHECK(worst_difference(x, on_host(dx), loss, 80) < 1e-7);
  for (const auto& entry : store.entries()) {
    INFO(entry.spec.name);
    const ParameterHandle handle = store.find(entry.spec.name);
    CHECK(worst_difference(store.value_vector(handle), on_host(store.gradient_vector(handle)), loss,
                           20) < 1e-6);
  }
}

TEST_CASE("gradients of two micro-batches add up to those of both together", "[model]") {
  DecoderConfig config = small_config("switch", 1);
  config.moe.balance = 0;  // it sees one micro-batch at a time
  config.dropout = config.attention_dropout = 0.2;
  SmallModel<double> small(config);
  PackedStep both({9, 20}, small_vocabulary);
  small.loss(both, 0, true, {});
  std::vector<std::vector<double>> expected;
  for (const auto& entry : small.store.entries())
    expected.push_back(on_host(small.store.gradient_vector(small.store.find(entry.spec.name))));

  small.store.begin_update();
  const std::vector<int> ids = on_host(both.ctx.tokens.ids);
  const std::vector<int> targets = on_host(both.ctx.tokens.targets);
  const std::vector<int> position = on_host(both.ctx.tokens.position);
  const std::vector<std::uint32_t> index = on_host(both.ctx.tokens.sequence_index);
  for (const auto& [begin, end] : {std::pair(0, 9), std::pair(9, 29)}) {
    const auto cut = [b = begin, e = end](const auto& v) {
      return std::decay_t<decltype(v)>(v.begin() + b, v.begin() + e);
    };
    PackedStep part(cut(ids), cut(targets), {0, end - begin}, cut(index), cut(position));
    part.ctx.update_tokens = both.ctx.update_tokens;
    part.ctx.loss_scale = both.ctx.loss_scale;
    const Matrix<double> logits = small.model.forward(part.ctx, small.saved, small.statistics);
    cross_entropy<double>(part.ctx, logits, part.ctx.tokens.targets, 0, true,
                          part.scratch.vector<double>(CrossEntropySums::width));
    small.model.backward(part.ctx, small.saved, logits);
  }
  small.store.finish_gradients(ExecutionSpace());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const std::string& name = small.store.entries()[i].spec.name;
    INFO(name);
    CHECK(worst_error(on_host(small.store.gradient_vector(small.store.find(name))), expected[i],
                      1e-3) < 1e-12);
  }
}
