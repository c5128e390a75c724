// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "small_model.hpp"
#include "support/catch.hpp"

#include <limits>
#include <numeric>

using namespace kokomoe;
using namespace kokomoe::test;

TEST_CASE("generation with caches gives forward's logits, by tokens and by chunks", "[model]") {
  const Positions positions = GENERATE(Positions::rotary, Positions::learned);
  const std::string router = GENERATE("sparsemixer", "top_k");
  const std::vector<int> chunks =
      GENERATE(std::vector<int>(40, 1), std::vector<int>{7, 1, 1, 30, 1}, std::vector<int>{40});
  DecoderConfig config = small_config(router, router == "top_k" ? 2 : 1);
  config.positions = positions;
  config.dropout = config.attention_dropout = 0.3;  // off in evaluation
  SmallModel<double> small(config);
  PackedStep all({40}, small_vocabulary);
  all.ctx.training = false;
  const std::vector<double> expected = on_host(small.model.forward(all.ctx, small.saved));
  const std::vector<int> ids = on_host(all.ctx.tokens.ids);

  const auto caches = small.model.make_caches(1, 40);
  REQUIRE(caches.size() == 2);
  int done = 0;
  for (const int count : chunks) {
    std::vector<int> position(static_cast<std::size_t>(count));
    std::iota(position.begin(), position.end(), done);
    PackedStep part({ids.begin() + done, ids.begin() + done + count}, {}, {0, count},
                    std::vector<std::uint32_t>(position.size(), 0), position);
    part.ctx.training = false;
    const std::vector<double> logits =
        on_host(small.model.forward_cached(part.ctx, small.saved, caches));
    const std::vector<double> wanted(expected.begin() + done * small_vocabulary,
                                     expected.begin() + (done + count) * small_vocabulary);
    CHECK(worst_error(logits, wanted) < 1e-12);
    done += count;
  }
  CHECK(done == 40);
}

TEST_CASE("a token's logits depend on no later token and on no other sequence", "[model]") {
  SmallModel<double> small(small_config("switch", 1));
  PackedStep step({12, 20}, small_vocabulary);
  const std::vector<double> before = on_host(small.model.forward(step.ctx, small.saved));
  std::vector<int> ids = on_host(step.ctx.tokens.ids);
  const std::size_t changed = 7;
  ids[changed] = (ids[changed] + 1) % small_vocabulary;
  step.ctx.tokens.ids = device_vector(ids);
  step.reset();
  const std::vector<double> after = on_host(small.model.forward(step.ctx, small.saved));
  for (std::size_t t = 0; t < 32; ++t)
    for (std::size_t v = 0; v < small_vocabulary; ++v) {
      const std::size_t i = t * small_vocabulary + v;
      // Other tokens' rows move in their expert's GEMM, which may round otherwise.
      if (t < changed || t >= 12)
        REQUIRE(std::abs(after[i] - before[i]) < 1e-13);
      else if (v == 0)
        CHECK(after[i] != before[i]);
    }
}

TEST_CASE("a replayed routing gives the same logits, and another one others", "[model]") {
  SmallModel<double> small(small_config("sparsemixer", 1));
  PackedStep step({12, 20}, small_vocabulary);
  const std::vector<double> drawn = on_host(small.model.forward(step.ctx, small.saved));
  const std::vector<Routing<double>> replay = small.recorded();
  step.ctx.step = 1000;  // other draws, had there been any
  step.reset();
  CHECK(on_host(small.model.forward(step.ctx, small.saved, {}, replay)) == drawn);
  step.reset();
  CHECK(on_host(small.model.forward(step.ctx, small.saved)) != drawn);
  CHECK_THAT(message_of<Error>([&] {
               small.model.forward(step.ctx, small.saved, {}, {replay[0], replay[0]});
             }),
             contains("2 routings for 1 MoE layers"));
}

TEST_CASE("the MoE layers are every n-th, or none", "[model]") {
  for (const auto& [every, expected] :
       {std::pair(0, 0), std::pair(1, 5), std::pair(2, 3), std::pair(3, 2), std::pair(7, 1)}) {
    DecoderConfig config = small_config("switch", 1);
    config.layers = 5;
    config.moe_every = every;
    ParameterStore<float> store;
    const DecoderLm<float> model(config, store);
    CHECK(model.moe_layers() == expected);
    CHECK((store.find("blocks.1.moe.router.weight").valid()) == (every == 1));
    CHECK((store.find("blocks.1.ffn.w1").valid()) == (every != 1));
  }
}

TEST_CASE("a decoder of no tokens has no logits and zero gradients", "[model]") {
  SmallModel<double> small(small_config("switch", 1));
  PackedStep step(std::vector<int>{}, small_vocabulary);
  step.ctx.update_tokens = 5;
  const double loss = small.loss(step, 0, true, {});
  CHECK(loss == 0);
  for (const auto& entry : small.store.entries()) {
    INFO(entry.spec.name);
    CHECK(largest(on_host(small.store.gradient_vector(small.store.find(entry.spec.name)))) == 0);
  }
}

TEST_CASE("sizes that do not go together are refused", "[model]") {
  const auto message = [](auto change) {
    DecoderConfig config = small_config("switch", 1);
    change(config);
    ParameterStore<float> store;
    return message_of<InputError>([&] { DecoderLm<float>(config, store); });
  };
  CHECK_THAT(message([](DecoderConfig& c) { c.heads = 3; }),
             contains("3 heads do not divide d_model 8"));
  CHECK_THAT(message([](DecoderConfig& c) { c.layers = 0; }), contains("layers must lie in"));
  CHECK_THAT(message([](DecoderConfig& c) { c.layers = 256; }), contains("not 256"));
  CHECK_THAT(message([](DecoderConfig& c) { c.heads = 8; }), contains("even head width"));
  CHECK_THAT(message([](DecoderConfig& c) { c.moe.router = "swich"; }), contains("switch"));
  CHECK_THAT(message_of<InputError>([] { parse_positions("sinus"); }),
             contains("rotary or learned"));
}

TEST_CASE("a sequence longer than max_length is refused", "[model]") {
  SmallModel<double> small(small_config("switch", 1));
  PackedStep step({41}, small_vocabulary);
  CHECK_THAT(message_of<Error>([&] { small.model.forward(step.ctx, small.saved); }),
             contains("41 tokens exceeds max_length 40"));
}
