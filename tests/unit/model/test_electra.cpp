// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "support/catch.hpp"
#include "unit/model/electra_rig.hpp"

#include <algorithm>
#include <numeric>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

ElectraConfig reference_config(const ElectraCase& c) {
  ElectraConfig config;
  config.discriminator = c.encoder();
  config.generator_width = c.number("generator_width");
  config.generator_layers = c.integer("generator_layers");
  config.discriminator_weight = c.number("discriminator_weight");
  return config;
}

struct ReferenceElectra {
  explicit ReferenceElectra(const std::string& name)
      : of(name), rig(reference_config(of)), text(of.text()) {
    of.set_parameters(rig);
    text.input.masked_ids = device_vector(of.file().i4(of.at("masked_ids")));
    text.input.rows = device_vector(of.file().i4(of.at("rows")));
    text.step->ctx.loss_scale = 1.0 / static_cast<double>(text.input.rows.extent(0));
    start(0);
  }
  void start(std::size_t step) {
    const std::vector<int> all = of.file().i4(of.at("replacements"));
    const auto masked = static_cast<std::ptrdiff_t>(text.input.rows.extent(0));
    const auto first = all.begin() + static_cast<std::ptrdiff_t>(step) * masked;
    text.input.replacements = device_vector(std::vector<int>(first, first + masked));
    text.step->ctx.step = step;
  }
  std::vector<double> record(const std::string& name) const { return of.file().f8(of.at(name)); }

  ElectraCase of;
  ElectraRig<double> rig;
  TextStep text;
};

ElectraConfig small_electra(bool post_norm, double dropout) {
  ElectraConfig config;
  config.discriminator = small_encoder(post_norm, dropout);
  config.generator_width = 0.5;
  config.generator_layers = 1;
  config.discriminator_weight = 20;
  return config;
}

std::vector<Sentence> small_text() {
  return {make_sentence(7, electra_vocabulary, 5), make_sentence(1, electra_vocabulary, 0),
          make_sentence(33, electra_vocabulary, 9), make_sentence(12, electra_vocabulary, 2)};
}

}  // namespace

TEST_CASE(
    "replaced-token detection agrees with the torch reference: logits, losses, every gradient",
    "[model][electra]") {
  for (const char* name : {"post", "pre"}) {
    INFO("case " << name);
    ReferenceElectra c(name);
    CHECK(c.rig.store.entries().size() == c.of.file().names(c.of.at("initial/")).size());
    for (const bool training : {false, true}) {
      c.text.step->ctx.training = training;
      const std::string which = training ? "" : "eval_";
      c.rig.forward(c.text);
      CHECK(worst_error(on_host(c.rig.saved.generator_logits),
                        c.record(which + "generator_logits")) < 1e-12);
      CHECK(worst_error(on_host(c.rig.saved.discriminator_logits),
                        c.record(which + "discriminator_logits")) < 1e-12);
    }
    const std::vector<double> losses = c.rig.losses(c.text, true), all = c.record("losses");
    for (std::size_t i = 0; i < 4; ++i) CHECK(std::abs(losses[i] - all[i]) < 1e-12);
    CHECK(worst_error(on_host(c.rig.sums), c.record("sums")) < 1e-13);
    for (const auto& entry : c.rig.store.entries()) {
      INFO(entry.spec.name);
      const std::string record = c.of.at("gradient/" + entry.spec.name);
      CHECK(entry.spec.shape == c.of.file().shape(record));
      CHECK(worst_error(on_host(c.rig.store.gradient_vector(c.rig.store.find(entry.spec.name))),
                        c.of.file().f8(record), 1e-3) < 1e-12);
    }
  }
}

TEST_CASE("updates of replaced-token detection follow the torch reference", "[model][electra]") {
  for (const char* name : {"post", "pre"}) {
    INFO("case " << name);
    ReferenceElectra c(name);
    const auto all = c.record("losses"), norms = c.record("gradient_norms");
    REQUIRE(norms.size() == 5);
    for (std::size_t s = 0; s < norms.size(); ++s) {
      INFO("step " << s);
      c.start(s);
      const std::vector<double> losses = c.rig.losses(c.text, true);
      for (std::size_t i = 0; i < 4; ++i) CHECK(std::abs(losses[i] - all[4 * s + i]) < 1e-11);
      const double norm =
          gradient_norm<double>(ExecutionSpace(), c.text.step->scratch, c.rig.store);
      CHECK(std::abs(norm / norms[s] - 1) < 1e-11);
      adamw_step<double>(ExecutionSpace(), c.of.optimizer(), c.of.number("learning_rate"),
                         clip_factor(norm, c.of.number("clip")), static_cast<std::int64_t>(s) + 1,
                         c.rig.store);
    }
    for (const auto& entry : c.rig.store.entries()) {
      INFO(entry.spec.name);
      CHECK(worst_error(on_host(c.rig.store.value_vector(c.rig.store.find(entry.spec.name))),
                        c.record("final/" + entry.spec.name), 1.0) < 1e-9);
    }
  }
}

TEST_CASE("gradients of replaced-token detection are those of differences, with dropout",
          "[model][electra]") {
  const bool post_norm = GENERATE(true, false);
  ElectraRig<double> rig(small_electra(post_norm, 0.2));
  TextStep text(small_text());
  rig.losses(text, false);
  const auto replay = rig.recorded(rig.model->discriminator(), rig.saved.discriminator);
  REQUIRE(replay.size() == 1);
  text.input.replacements = device_vector(on_host(rig.saved.replacements));
  rig.losses(text, true, replay);
  const auto loss = [&]() { return rig.losses(text, false, replay)[0]; };
  for (const auto& entry : rig.store.entries()) {
    INFO(entry.spec.name);
    const ParameterHandle handle = rig.store.find(entry.spec.name);
    CHECK(worst_difference(rig.store.value_vector(handle),
                           on_host(rig.store.gradient_vector(handle)), loss, 12) < 1e-6);
  }
}

TEST_CASE("the discriminator reads the text with the generator's draws in it", "[model][electra]") {
  ElectraRig<double> rig(small_electra(true, 0));
  TextStep text(small_text());
  const auto draw = [&](std::uint64_t step) {
    text.step->ctx.step = step;
    rig.forward(text);
    return on_host(rig.saved.replacements);
  };
  const std::vector<int> first = draw(3), other = draw(4);
  CHECK(first != other);
  CHECK(draw(3) == first);

  const std::vector<int> ids = on_host(text.step->ctx.tokens.ids), rows = on_host(text.input.rows);
  std::vector<int> corrupted = ids, replaced(ids.size(), 0);
  int count = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto t = static_cast<std::size_t>(rows[i]);
    REQUIRE((first[i] >= 0 && first[i] < electra_vocabulary));
    corrupted[t] = first[i];
    replaced[t] = first[i] != ids[t] ? 1 : 0;
    count += replaced[t];
  }
  REQUIRE(count > 0);
  CHECK(on_host(rig.saved.corrupted) == corrupted);
  CHECK(on_host(rig.saved.replaced) == replaced);
  // Drawn right is not replaced: the text itself has nothing to find.
  std::vector<int> right;
  for (const int r : rows) right.push_back(ids[static_cast<std::size_t>(r)]);
  text.input.replacements = device_vector(right);
  rig.losses(text, false);
  CHECK(on_host(rig.saved.corrupted) == ids);
  CHECK(on_host(rig.sums)[4] == 0);
  CHECK(on_host(rig.sums)[5] == 0);
}

TEST_CASE("a text's result does not depend on its company", "[model][electra]") {
  ElectraRig<double> rig(small_electra(false, 0.1));
  const std::vector<Sentence> all = small_text();
  const auto run = [&](const std::vector<Sentence>& sentences) {
    TextStep text(sentences);
    rig.forward(text);
    return std::make_tuple(on_host(rig.saved.generator_logits), on_host(rig.saved.replacements),
                           on_host(rig.saved.discriminator_logits));
  };
  const auto [guesses, drawn, told] = run({all[3]});
  const auto [all_guesses, all_drawn, all_told] = run(all);
  const auto tail = [](const auto& values, std::size_t count) {
    return std::decay_t<decltype(values)>(values.end() - static_cast<std::ptrdiff_t>(count),
                                          values.end());
  };
  CHECK(worst_error(tail(all_guesses, guesses.size()), guesses) < 1e-13);
  CHECK(tail(all_drawn, drawn.size()) == drawn);
  CHECK(worst_error(tail(all_told, told.size()), told) < 1e-12);
}

TEST_CASE("a batch in parts gives the gradient of the whole", "[model][electra]") {
  ElectraConfig config = small_electra(true, 0.1);
  config.discriminator.moe.balance = 0;  // looks at a part by itself
  ElectraRig<double> rig(config);
  std::vector<Sentence> all = small_text();
  all[3].hidden.clear();
  TextStep whole(all);
  const std::vector<double> losses = rig.losses(whole, true);
  const auto expected = rig.gradients();
  double sum = 0;
  bool begin = true;
  // No sequence, and one of which nothing is hidden, are parts too.
  for (const std::vector<Sentence>& part :
       {std::vector<Sentence>{all[3]}, {}, {all[0], all[1]}, {all[2]}}) {
    TextStep text(part);
    text.step->ctx.loss_scale = whole.step->ctx.loss_scale;
    text.step->ctx.update_tokens = whole.step->ctx.update_tokens;
    const std::vector<double> own = rig.losses(text, true, {}, begin);
    sum += own[1] + config.discriminator_weight * own[2];
    begin = false;
  }
  CHECK(std::abs(sum - (losses[0] - losses[3])) < 1e-12);
  const auto gradients = rig.gradients();
  REQUIRE(gradients.size() == expected.size());
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    INFO(rig.store.entries()[i].spec.name);
    CHECK(worst_error(gradients[i], expected[i], 1e-3) < 1e-12);
  }
}

TEMPLATE_TEST_CASE("layout-free replaced-token detection", "[model][electra][layout_free]", float,
                   double) {
  const ElectraConfig config = small_electra(true, 0.1);
  ElectraRig<TestType> plain(config), exact(config, true);
  std::vector<Sentence> all = small_text();
  TextStep text(all);
  const std::vector<double> losses = plain.losses(text, true);
  const auto expected = plain.gradients();
  const auto run = [&]() {
    TextStep other(all);
    other.step->ctx.layout_free = true;
    const std::vector<double> result = exact.losses(other, true);
    return std::make_pair(result, exact.gradients());
  };
  const auto [first, gradients] = run();
  const double tolerance = std::is_same_v<TestType, double> ? 1e-9 : 1e-4;
  CHECK(std::abs(first[0] / losses[0] - 1) < tolerance);
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    INFO(exact.store.entries()[i].spec.name);
    CHECK(worst_error(gradients[i], expected[i], 1e-2) < tolerance);
  }
  for (int turn = 0; turn < 3; ++turn) {
    std::rotate(all.begin(), all.begin() + 1, all.end());
    if (turn == 1) std::swap(all[0], all[2]);
    const auto [other, others] = run();
    CHECK(other == first);
    CHECK(others == gradients);
  }
}

TEST_CASE("routers that learn from the loss are told the discriminator's", "[model][electra]") {
  ElectraRig<double> rig(small_electra(true, 0));
  TextStep text(small_text());
  const Vector<double> each("kokomoe::test::each", 4);
  rig.forward(text);
  rig.model->losses(text.step->ctx, rig.saved, false, rig.sums, each);
  const StepContext& ctx = text.step->ctx;
  const std::vector<double> losses = on_host(each);
  const std::vector<double> logits = on_host(rig.saved.discriminator_logits);
  const std::vector<int> replaced = on_host(rig.saved.replaced),
                         offsets = on_host(ctx.tokens.sequence_offsets);
  for (std::size_t b = 0; b < 4; ++b) {
    double sum = 0;
    for (auto t = static_cast<std::size_t>(offsets[b]);
         t < static_cast<std::size_t>(offsets[b + 1]); ++t)
      sum += std::log(1 + std::exp(logits[t])) - replaced[t] * logits[t];
    CHECK(losses[b] * ctx.loss_scale == Approx(20 * sum / ctx.update_tokens).epsilon(1e-12));
  }
}

TEST_CASE("replaced-token detection refuses what does not fit", "[model][electra]") {
  const auto message = [](const auto& change) {
    ElectraConfig config = small_electra(true, 0);
    change(config);
    ParameterStore<double> store;
    return message_of<InputError>([&] { ElectraModel<double>(config, store); });
  };
  CHECK_THAT(message([](ElectraConfig& c) { c.generator_width = 0; }), contains("(0, 1]"));
  CHECK_THAT(message([](ElectraConfig& c) { c.generator_width = 1.5; }), contains("1.5"));
  CHECK_THAT(message([](ElectraConfig& c) { c.generator_layers = -1; }), contains("-1 layers"));
  CHECK_THAT(message([](ElectraConfig& c) { c.temperature = 0; }), contains("temperature"));
  CHECK_THAT(message([](ElectraConfig& c) { c.discriminator_weight = -1; }), contains("weight"));
  CHECK_THAT(message([](ElectraConfig& c) { c.discriminator.embedding = 4; }),
             contains("8 channels, not 4"));
  CHECK_THAT(message([](ElectraConfig& c) { c.discriminator.vocabulary = 0; }),
             contains("vocabulary must be at least 1"));
  CHECK_THAT(message([](ElectraConfig& c) { c.discriminator.heads = 3; }),
             contains("3 heads do not divide d_model 8"));

  ElectraRig<double> rig(small_electra(true, 0));
  const auto error = [&](const auto& change) {
    TextStep text(small_text());
    change(text);
    return message_of<Error>([&] { rig.forward(text); });
  };
  CHECK_THAT(error([](TextStep& t) { t.input.segments = {}; }), contains("segments has shape (0"));
  CHECK_THAT(error([](TextStep& t) { t.input.masked_ids = {}; }), contains("masked_ids"));
  CHECK_THAT(error([](TextStep& t) { t.input.replacements = device_vector<int>({1}); }),
             contains("replacements"));
  CHECK_THAT(error([](TextStep& t) { t = TextStep({make_sentence(41, electra_vocabulary, 1)}); }),
             contains("41 tokens exceeds max_length 40"));
}
