// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "support/catch.hpp"
#include "support/packed_step.hpp"
#include "support/tiny_training.hpp"

#include <algorithm>
#include <numeric>

using namespace kokomoe;
using namespace kokomoe::test;

TEST_CASE("evaluation counts every held-out byte once, whatever the batches", "[train]") {
  const TinyTraining tiny;
  const auto model = tiny.make<float>();
  for (int step = 0; step < 5; ++step) model->update(step);
  const auto before = all_values(model->store());
  const Corpus heldout = tiny.corpus("heldout.txt");
  const EvaluationReport report = model->evaluate(EvalWindows(heldout, 16, 0, 128));
  const auto bytes = static_cast<std::int64_t>(tiny.heldout().size());
  CHECK(report.tokens == bytes);
  CHECK(report.bytes == bytes);
  CHECK(report.loss > 0);
  CHECK(report.perplexity == Approx(std::exp(report.loss)));
  CHECK(report.bits_per_byte == Approx(report.loss / std::log(2.0)));
  CHECK(report.accuracy > 0);
  CHECK(report.accuracy < 1);
  CHECK(all_values(model->store()) == before);

  const EvaluationReport again = model->evaluate(EvalWindows(heldout, 16, 0, 128));
  CHECK(again.loss == report.loss);
  const EvaluationReport smaller = model->evaluate(EvalWindows(heldout, 16, 0, 16));
  CHECK(smaller.tokens == report.tokens);
  CHECK(smaller.loss == Approx(report.loss).epsilon(1e-5));
  CHECK(smaller.accuracy == Approx(report.accuracy).margin(2e-3));
}

TEST_CASE("a model that knows nothing needs log2 of its vocabulary a byte", "[train]") {
  const TinyTraining tiny;
  const auto model = tiny.make<double>();
  const ParameterHandle embedding = model->store().find("embedding.weight");
  Kokkos::deep_copy(model->store().value(embedding), 0.0);
  const EvaluationReport report =
      model->evaluate(EvalWindows(tiny.corpus("heldout.txt"), 16, 0, 128));
  CHECK(report.loss == Approx(std::log(257.0)).epsilon(1e-12));
  CHECK(report.bits_per_byte == Approx(std::log2(257.0)).epsilon(1e-12));
  CHECK(report.perplexity == Approx(257).epsilon(1e-10));
}

TEST_CASE("evaluation loss is that of the logits that forward gives", "[train]") {
  const TinyTraining tiny;
  const auto model = tiny.make<double>({"model/dropout=0.5", "train/label_smoothing=0.3"});
  const std::string text = tiny.heldout().substr(0, 10);
  write_text(tiny.folder() / "ten.txt", text);
  const EvaluationReport report = model->evaluate(EvalWindows(tiny.corpus("ten.txt"), 16, 0, 128));
  REQUIRE(report.tokens == 10);

  std::vector<int> ids{tiny.tokenizer().beginning_of_text()}, position(10);
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  const std::vector<int> targets(ids.begin() + 1, ids.end());
  ids.pop_back();
  std::iota(position.begin(), position.end(), 0);
  PackedStep step(ids, targets, {0, 10}, std::vector<std::uint32_t>(10, 0), position);
  step.ctx.training = false;
  DecoderLm<double>::Saved saved;
  const std::vector<double> logits = on_host(model->model().forward(step.ctx, saved));
  double loss = 0, right = 0;
  for (std::size_t t = 0; t < 10; ++t) {
    const std::vector<double> row(logits.begin() + static_cast<std::ptrdiff_t>(257 * t),
                                  logits.begin() + static_cast<std::ptrdiff_t>(257 * (t + 1)));
    double sum = 0;
    for (const double z : row) sum += std::exp(z);
    loss += std::log(sum) - row[static_cast<std::size_t>(targets[t])];
    right += std::max_element(row.begin(), row.end()) - row.begin() == targets[t] ? 1 : 0;
  }
  CHECK(report.loss == Approx(loss / 10).epsilon(1e-12));
  CHECK(report.accuracy == Approx(right / 10));
}

TEST_CASE("generation depends on prompt, seed and parameters alone", "[train]") {
  const TinyTraining tiny;
  const auto model = tiny.make<float>();
  for (int step = 0; step < 15; ++step) model->update(step);
  const std::vector<int> prompt = tiny.tokenizer().encode("the ");
  // Longer than sequence_length = 16: the cache is begun anew on the way.
  const std::vector<int> text = model->generate(prompt, 60, 0.8, 0, 5);
  CHECK(text.size() == 60);
  for (const int id : text) CHECK((id >= 0 && id < 257));
  CHECK(model->generate(prompt, 60, 0.8, 0, 5) == text);
  CHECK(model->generate(prompt, 60, 0.8, 0, 6) != text);
  const std::vector<int> start(text.begin(), text.begin() + 7);
  CHECK(model->generate(prompt, 7, 0.8, 0, 5) == start);
  CHECK(model->generate(prompt, 0, 0.8, 0, 5).empty());
  CHECK_THAT(message_of<Error>([&] { model->generate({}, 3, 1, 0, 1); }),
             contains("the prompt has no token"));
}

TEST_CASE("generation at temperature 0 or from the top 1 takes the argmax", "[train]") {
  const TinyTraining tiny;
  const auto model = tiny.make<double>({"run/precision=double"});
  for (int step = 0; step < 10; ++step) model->update(step);
  std::vector<int> ids = tiny.tokenizer().encode("and the");
  const std::vector<int> greedy = model->generate(ids, 8, 0, 0, 1);
  CHECK(model->generate(ids, 8, 1.0, 1, 77) == greedy);
  for (const int chosen : greedy) {
    std::vector<int> position(ids.size());
    std::iota(position.begin(), position.end(), 0);
    PackedStep step(ids, std::vector<int>(ids.size(), -1), {0, static_cast<int>(ids.size())},
                    std::vector<std::uint32_t>(ids.size(), 0), position);
    step.ctx.training = false;
    DecoderLm<double>::Saved saved;
    const std::vector<double> logits = on_host(model->model().forward(step.ctx, saved));
    const auto last = logits.end() - 257;
    CHECK(std::max_element(last, logits.end()) - last == chosen);
    ids.push_back(chosen);
  }
}

TEST_CASE("a prompt longer than the model's sequences is continued from its end", "[train]") {
  const TinyTraining tiny;
  const auto model = tiny.make<float>();
  const std::vector<int> prompt = tiny.tokenizer().encode(tiny.heldout().substr(0, 50));
  const std::vector<int> text = model->generate(prompt, 5, 0, 0, 1);
  CHECK(text.size() == 5);
  const std::vector<int> end(prompt.end() - 8, prompt.end());
  CHECK(model->generate(end, 5, 0, 0, 1) == text);
}
