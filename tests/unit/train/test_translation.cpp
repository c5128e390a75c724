// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/nn/cross_entropy.hpp"
#include "support/catch.hpp"
#include "support/host_arrays.hpp"
#include "support/tiny_pairs.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

std::string refusal(const TinyPairs& pairs, const std::vector<std::string>& overrides) {
  return message_of<InputError>([&] { pairs.config(overrides); });
}

/// Values of every tensor, one after the other.
std::vector<double> values_of(const ParameterStore<double>& store) {
  std::vector<double> all;
  for (int i = 0; i < static_cast<int>(store.entries().size()); ++i) {
    const std::vector<double> values = on_host(store.value_vector({i}));
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

}  // namespace

TEST_CASE("a translation model learns to reverse words", "[translation]") {
  const TinyPairs pairs;
  const auto model = pairs.make<float>({"train/label_smoothing=0.1"});
  const Evaluation before = model->evaluate_heldout();
  for (std::int64_t step = 0; step < 700; ++step) model->update(step);
  const Evaluation after = model->evaluate_heldout();
  // Letters alone, without a look at the source: the entropy of 26 of them is above 2.3 nats in
  // these words, and what is left with the source is the order of words.
  CHECK(before.loss > 4);
  CHECK(after.loss < 0.5);
  REQUIRE(after.figures[1].first == "accuracy");
  CHECK(after.figures[1].second > 0.85);
}

TEST_CASE("micro-batches of pairs sum to the whole update", "[translation]") {
  const TinyPairs pairs;
  const std::vector<std::string> common = {"moe/router=switch", "moe/balance=0",
                                           "model/dropout=0.1", "model/post_norm=true"};
  const auto with = [&](int micro_batches) {
    std::vector<std::string> overrides = common;
    overrides.push_back("train/accumulate=" + std::to_string(micro_batches));
    return pairs.make<double>(overrides);
  };
  const auto whole = with(1), parts = with(3);
  for (std::int64_t step = 0; step < 3; ++step) {
    const UpdateReport& a = whole->update(step);
    const UpdateReport& b = parts->update(step);
    CHECK(std::abs(a.loss - b.loss) < 1e-12 * a.loss);
    CHECK(a.tokens == b.tokens);
  }
  const std::vector<double> a = values_of(whole->store()), b = values_of(parts->store());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  CHECK(worst < 1e-9);
}

TEST_CASE("floating-point operations of a translation update are those counted by hand",
          "[translation]") {
  const TinyPairs pairs;
  const auto model = pairs.make<double>({"moe/every=0"});
  const UpdateReport& report = model->update(0);
  // d 16, hidden 24, two blocks a side, 257 tokens. Multiply-adds of a token: four d x d in each
  // attention, twice d x hidden; cross-attention's keys and values are of the source.
  const PairCorpus corpus = pairs.corpus("train");
  double source = 0, target = 0;
  for (std::int64_t i = 0; i < corpus.size(); ++i) {
    source += (corpus.source_length(i) + 1.0) / static_cast<double>(corpus.size());
    target += (corpus.target_length(i) + 1.0) / static_cast<double>(corpus.size());
  }
  const double encoder = 2 * (4.0 * 256 + 2 * 384 + 2 * 16 * source);
  const double decoder =
      2 * (4.0 * 256 + 4 * 256 + 2 * 384 + 2 * 16 * (source + (target + 1) / 2)) + 16.0 * 257;
  const PairBatches batches(corpus, model->config().seed, 160, 32);
  HostPairBatch batch;
  batches.fill(0, 0, 0, 1, batch);
  const double expected = 6 * (encoder * batch.source.tokens + decoder * batch.target.tokens);
  CHECK(std::abs(report.flops - expected) < 1e-9 * expected);
  CHECK(report.tokens == batch.target.tokens);
}

TEST_CASE("decks of translation refuse what cannot be", "[translation][deck]") {
  const TinyPairs pairs;
  CHECK_THAT(refusal(pairs, {"data/train_target=[]"}),
             contains("data/train_target") && contains("names no file"));
  CHECK_THAT(refusal(pairs, {"data/heldout_source=[]"}), contains("data/heldout_source"));
  CHECK_THAT(refusal(pairs, {"train/batch_tokens=31"}),
             contains("train/batch_tokens") && contains("data/max_length = 32"));
  CHECK_THAT(refusal(pairs, {"model/d_model=15", "model/heads=3"}), contains("even number"));
  CHECK_THAT(refusal(pairs, {"model/heads=3"}), contains("do not divide d_model"));
  CHECK_THAT(refusal(pairs, {"moe/routing_group=8"}), contains("moe/routing_group"));
  CHECK_THAT(refusal(pairs, {"parallel/deterministic=layout"}), contains("language_model"));
  CHECK_THAT(refusal(pairs, {"moe/router=expert_choice"}), contains("moe/allow_future"));
  CHECK_THAT(refusal(pairs, {"data/sequence_length=8"}), contains("data/sequence_length"));
  CHECK_THAT(refusal(pairs, {"run/task=translatoin"}), contains("translatoin"));
}
