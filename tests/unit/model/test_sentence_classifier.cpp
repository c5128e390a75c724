// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "support/catch.hpp"
#include "unit/model/electra_rig.hpp"

#include <algorithm>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

SentenceClassifierConfig reference_config(const ElectraCase& c) {
  SentenceClassifierConfig config;
  config.encoder = c.encoder();
  config.classes = c.integer("classes");
  return config;
}

struct ReferenceSentences {
  explicit ReferenceSentences(const std::string& name)
      : of(name), rig(reference_config(of)), text(of.text()) {
    of.set_parameters(rig);
    const bool classes = rig.model->config().classes > 1;
    if (classes)
      rig.labels = device_vector(of.file().i4(of.at("labels")));
    else
      rig.numbers = device_vector(record("numbers"));
    text.step->ctx.loss_scale = 1.0 / (classes ? 3 : 4);  // one label is missing
  }
  std::vector<double> record(const std::string& name) const { return of.file().f8(of.at(name)); }

  ElectraCase of;
  SentenceRig<double> rig;
  TextStep text;
};

SentenceClassifierConfig small_classifier(bool post_norm, double dropout, int classes) {
  SentenceClassifierConfig config;
  config.encoder = small_encoder(post_norm, dropout);
  config.head_dropout = dropout;
  config.classes = classes;
  return config;
}

std::vector<Sentence> sentences() {
  return {make_sentence(7, electra_vocabulary, 5), make_sentence(1, electra_vocabulary, 0),
          make_sentence(33, electra_vocabulary, 9), make_sentence(12, electra_vocabulary, 2)};
}

}  // namespace

TEST_CASE("a sentence classifier agrees with the torch reference: predictions, losses, gradients",
          "[model][electra]") {
  for (const char* name : {"classes", "number"}) {
    INFO("case " << name);
    ReferenceSentences c(name);
    CHECK(c.rig.store.entries().size() == c.of.file().names(c.of.at("initial/")).size());
    c.text.step->ctx.training = false;
    CHECK(worst_error(on_host(c.rig.forward(c.text)), c.record("eval_predictions")) < 1e-12);
    c.text.step->ctx.training = true;
    CHECK(worst_error(on_host(c.rig.forward(c.text)), c.record("predictions")) < 1e-12);
    const std::vector<double> losses = c.rig.losses(c.text, true);
    for (std::size_t i = 0; i < 3; ++i) CHECK(std::abs(losses[i] - c.record("losses")[i]) < 1e-12);
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

TEST_CASE("updates of a sentence classifier follow the torch reference", "[model][electra]") {
  for (const char* name : {"classes", "number"}) {
    INFO("case " << name);
    ReferenceSentences c(name);
    const auto all = c.record("losses"), norms = c.record("gradient_norms");
    REQUIRE(norms.size() == 5);
    for (std::size_t s = 0; s < norms.size(); ++s) {
      INFO("step " << s);
      c.text.step->ctx.step = s;
      const std::vector<double> losses = c.rig.losses(c.text, true);
      for (std::size_t i = 0; i < 3; ++i) CHECK(std::abs(losses[i] - all[3 * s + i]) < 1e-11);
      const double norm =
          gradient_norm<double>(ExecutionSpace(), c.text.step->scratch, c.rig.store);
      CHECK(std::abs(norm / norms[s] - 1) < 1e-10);
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

TEST_CASE("a sentence classifier's gradients are those of differences, with dropout",
          "[model][electra]") {
  const int classes = GENERATE(1, 3);
  SentenceRig<double> rig(small_classifier(classes == 3, 0.2, classes));
  rig.labels = device_vector<int>({2, 0, -1, 1});
  rig.numbers = device_vector<double>({0.5, -1, 2, 0.1});
  TextStep text(sentences());
  rig.losses(text, false);
  const auto replay = rig.recorded(rig.model->encoder(), rig.saved.encoder);
  rig.losses(text, true, replay);
  const auto loss = [&]() { return rig.losses(text, false, replay)[0]; };
  for (const auto& entry : rig.store.entries()) {
    INFO(entry.spec.name);
    const ParameterHandle handle = rig.store.find(entry.spec.name);
    CHECK(worst_difference(rig.store.value_vector(handle),
                           on_host(rig.store.gradient_vector(handle)), loss, 12) < 1e-6);
  }
}

TEST_CASE("a classifier takes over a discriminator by the names of its tensors",
          "[model][electra]") {
  ElectraConfig config;
  config.discriminator = small_encoder(true, 0);
  config.generator_width = 0.5;
  ElectraRig<double> electra(config);
  Draw draw(12);
  for (const auto& entry : electra.store.entries())
    fill_device(electra.store.value_vector(electra.store.find(entry.spec.name)),
                draw.many<double>(entry.size, 0.4));
  TextStep text(sentences());
  // The text itself: what is drawn is right.
  const std::vector<int> ids = on_host(text.step->ctx.tokens.ids);
  std::vector<int> right;
  for (const int r : on_host(text.input.rows)) right.push_back(ids[static_cast<std::size_t>(r)]);
  text.input.replacements = device_vector(right);
  electra.forward(text);
  const std::vector<double> features = on_host(electra.saved.discriminator.features);

  SentenceRig<double> classifier(small_classifier(true, 0, 2));
  int taken = 0;
  for (const auto& entry : classifier.store.entries()) {
    const ParameterHandle from = electra.store.find(entry.spec.name);
    INFO(entry.spec.name);
    CHECK(from.valid() == (entry.spec.name.rfind("sentence.", 0) != 0));
    if (!from.valid()) continue;
    CHECK(electra.store.entry(from).spec.shape == entry.spec.shape);
    fill_device(classifier.store.value_vector(classifier.store.find(entry.spec.name)),
                on_host(electra.store.value_vector(from)));
    ++taken;
  }
  CHECK(taken == static_cast<int>(classifier.store.entries().size()) - 4);
  classifier.forward(text);
  CHECK(worst_error(on_host(classifier.saved.encoder.features), features) == 0);
}

TEST_CASE("a sentence's prediction does not depend on its company, and its loss is its own",
          "[model][electra]") {
  const int classes = GENERATE(1, 3);
  SentenceRig<double> rig(small_classifier(false, 0.1, classes));
  rig.labels = device_vector<int>({2, 0, 1, 1});
  rig.numbers = device_vector<double>({0.5, -1, 2, 0.1});
  const std::vector<Sentence> all = sentences();
  TextStep alone({all[3]}), together(all);
  const std::vector<double> one = on_host(rig.forward(alone)),
                            four = on_host(rig.forward(together));
  CHECK(worst_error(std::vector<double>(four.end() - classes, four.end()), one) < 1e-12);

  const Vector<double> each("kokomoe::test::each", 4);
  const StepContext& ctx = together.step->ctx;
  if (classes == 1)
    rig.model->regression_loss(ctx, rig.saved, rig.numbers, false, rig.sums, each);
  else
    rig.model->classification_loss(ctx, rig.saved, rig.labels, false, rig.sums, each);
  const std::vector<double> losses = on_host(each), sums = on_host(rig.sums);
  double total = 0;
  for (std::size_t b = 0; b < 4; ++b) {
    const double* const z = &four[b * static_cast<std::size_t>(classes)];
    const int label = on_host(rig.labels)[b];
    double expected = std::pow(z[0] - on_host(rig.numbers)[b], 2);
    if (classes > 1)
      expected = std::log(std::exp(z[0]) + std::exp(z[1]) + std::exp(z[2])) - z[label];
    CHECK(losses[b] == Approx(expected).epsilon(1e-12));
    total += expected;
  }
  CHECK(sums[0] == Approx(total).epsilon(1e-12));
}

TEMPLATE_TEST_CASE("a layout-free sentence classifier", "[model][electra][layout_free]", float,
                   double) {
  const int classes = GENERATE(1, 3);
  const SentenceClassifierConfig config = small_classifier(true, 0.1, classes);
  SentenceRig<TestType> plain(config), exact(config, true);
  std::vector<std::size_t> order = {0, 1, 2, 3};
  const auto run = [&](SentenceRig<TestType>& rig, bool layout_free) {
    const std::vector<Sentence> all = sentences();
    std::vector<Sentence> some;
    std::vector<int> labels;
    std::vector<double> numbers;
    for (const std::size_t b : order) {
      some.push_back(all[b]);
      labels.push_back(std::vector<int>{2, 0, 1, 1}[b]);
      numbers.push_back(std::vector<double>{0.5, -1, 2, 0.1}[b]);
    }
    rig.labels = device_vector(labels);
    rig.numbers = device_vector(numbers);
    TextStep text(some);
    text.step->ctx.layout_free = layout_free;
    const std::vector<double> losses = rig.losses(text, true);
    return std::make_pair(losses, rig.gradients());
  };
  const auto expected = run(plain, false), first = run(exact, true);
  const double tolerance = std::is_same_v<TestType, double> ? 1e-9 : 1e-4;
  // Squared errors are summed on a grid of 2^-26.
  CHECK(std::abs(first.first[0] / expected.first[0] - 1) < std::max(tolerance, 1e-7));
  for (std::size_t i = 0; i < first.second.size(); ++i) {
    INFO(exact.store.entries()[i].spec.name);
    CHECK(worst_error(first.second[i], expected.second[i], 1e-2) < tolerance);
  }
  order = {3, 1, 0, 2};
  CHECK(run(exact, true) == first);
}

TEST_CASE("a sentence classifier refuses what does not fit", "[model][electra]") {
  ParameterStore<double> store;
  SentenceClassifierConfig config = small_classifier(true, 0, 0);
  CHECK_THAT(message_of<InputError>([&] { SentenceClassifier<double>(config, store); }),
             contains("0 classes"));
  config.classes = 2;
  config.head_dropout = 1;
  CHECK_THAT(message_of<InputError>([&] { SentenceClassifier<double>(config, store); }),
             contains("not in [0, 1)"));
  SentenceRig<double> two(small_classifier(true, 0, 2)), one(small_classifier(true, 0, 1));
  TextStep text(sentences());
  two.forward(text);
  CHECK_THAT(message_of<Error>([&] {
               two.model->regression_loss(text.step->ctx, two.saved, two.numbers, false, two.sums);
             }),
             contains("classes, not numbers"));
  one.forward(text);
  CHECK_THAT(message_of<Error>([&] {
               one.model->classification_loss(text.step->ctx, one.saved, one.labels, false,
                                              one.sums);
             }),
             contains("numbers, not classes"));
  one.numbers = device_vector<double>({1, 2});
  CHECK_THAT(message_of<Error>([&] {
               one.model->regression_loss(text.step->ctx, one.saved, one.numbers, false, one.sums);
             }),
             contains("numbers has shape (2"));
}
