// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "support/catch.hpp"
#include "support/tiny_training.hpp"

using namespace kokomoe;
using namespace kokomoe::test;

TEST_CASE("training twice from the same start gives the same bits", "[train]") {
  const std::string router = GENERATE("sparsemixer", "switch", "top_k", "dense_mixture");
  const TinyTraining tiny;
  const std::vector<std::string> overrides{"moe/router=" + router, "model/dropout=0.1",
                                           "model/attention_dropout=0.1", "train/accumulate=2"};
  const auto first = tiny.make<float>(overrides), second = tiny.make<float>(overrides);
  for (int step = 0; step < 4; ++step) {
    const UpdateReport a = first->update(step), b = second->update(step);
    CHECK(a.loss == b.loss);
    CHECK(a.grad_norm == b.grad_norm);
    CHECK(a.step == step + 1);
  }
  CHECK(all_values(first->store()) == all_values(second->store()));
}

TEST_CASE("two micro-batches make the update of one, up to rounding", "[train]") {
  const TinyTraining tiny;
  // The balance loss sees one micro-batch at a time: without it, and without draws.
  const std::vector<std::string> overrides{"moe/router=switch", "moe/balance=0", "moe/z_loss=0.01",
                                           "run/precision=double"};
  std::vector<std::string> split = overrides;
  split.push_back(GENERATE("train/accumulate=2", "train/accumulate=3"));
  const auto whole = tiny.make<double>(overrides), parts = tiny.make<double>(split);
  for (int step = 0; step < 3; ++step) {
    const UpdateReport a = whole->update(step), b = parts->update(step);
    CHECK(std::abs(a.task_loss - b.task_loss) < 1e-12);
    CHECK(std::abs(a.aux_loss - b.aux_loss) < 1e-12);
    CHECK(std::abs(a.grad_norm / b.grad_norm - 1) < 1e-11);
    CHECK(a.tokens == 128);
    CHECK(b.tokens == 128);
  }
  const auto a = all_values(whole->store()), b = all_values(parts->store());
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(worst_error(a[i], b[i]) < 1e-8);
}

TEST_CASE("an update does not depend on updates before it but through the parameters", "[train]") {
  const TinyTraining tiny;
  const auto one = tiny.make<float>(), other = tiny.make<float>();
  one->update(0);
  // The other one begins at step 7 with the start's parameters: its batch is step 7's.
  const UpdateReport at_seven = other->update(7);
  const auto third = tiny.make<float>();
  CHECK(third->update(7).loss == at_seven.loss);
  CHECK(at_seven.step == 8);
}

TEST_CASE("training lowers the loss, in float and in double alike", "[train]") {
  const std::string router = GENERATE("sparsemixer", "switch");
  const TinyTraining tiny;
  const auto single = tiny.make<float>({"moe/router=" + router});
  const auto exact = tiny.make<double>({"moe/router=" + router});
  const UpdateReport first = single->update(0), first_exact = exact->update(0);
  CHECK(std::abs(first.loss - first_exact.loss) < 1e-4);
  CHECK(std::abs(first.task_loss - std::log(257.0)) < 0.1);
  CHECK(first.loss == first.task_loss + first.aux_loss);
  CHECK(first.grad_norm > 0);
  REQUIRE(first.load.size() == 2);
  double tokens = 0;
  for (const double count : first.load[0].counts) tokens += count;
  CHECK(tokens == 128);
  UpdateReport last = first;
  for (int step = 1; step < 20; ++step) last = single->update(step);
  CHECK(last.task_loss < first.task_loss - 1.5);
}

TEST_CASE("the learning rate of a report is the schedule's", "[train]") {
  const TinyTraining tiny;
  const auto model = tiny.make<float>({"optimizer/warmup=4", "optimizer/schedule=linear"});
  CHECK(model->update(0).learning_rate == Approx(1e-2 / 4));
  CHECK(model->update(3).learning_rate == Approx(1e-2));
  CHECK(model->update(19).learning_rate == Approx(0).margin(1e-12));
}

TEST_CASE("a model without experts trains, of any accumulation", "[train]") {
  const TinyTraining tiny;
  const auto model = tiny.make<float>({"moe/every=0", "train/accumulate=2"});
  const UpdateReport first = model->update(0);
  CHECK(first.aux_loss == 0);
  CHECK(first.load.empty());
  UpdateReport last;
  for (int step = 1; step < 20; ++step) last = model->update(step);
  CHECK(last.loss < first.loss - 1.5);
}

TEST_CASE("frozen tensors stay and a pattern without a match is refused", "[train]") {
  const TinyTraining tiny;
  const auto model = tiny.make<float>({"train/freeze=[\"*.router.weight\"]"});
  const ParameterStore<float>& store = model->store();
  const auto before = all_values(store);
  model->update(0);
  const auto after = all_values(store);
  int frozen = 0;
  for (std::size_t i = 0; i < before.size(); ++i) {
    const bool router = store.entries()[i].spec.name.find("router") != std::string::npos;
    INFO(store.entries()[i].spec.name);
    CHECK((before[i] == after[i]) == router);
    frozen += router ? 1 : 0;
  }
  CHECK(frozen == 2);
  CHECK_THAT(message_of<InputError>([&] { tiny.make<float>({"train/freeze=[\"*.rooter.*\"]"}); }),
             contains("train/freeze: no tensor matches \"*.rooter.*\""));
}

TEST_CASE("a model without a training corpus does not train", "[train]") {
  const TinyTraining tiny;
  LanguageModel<float> model(tiny.config(), tiny.alone(), std::nullopt);
  CHECK_THAT(message_of<Error>([&] { model.update(0); }), contains("without a training corpus"));
}

TEST_CASE("reinforce learns from each sequence's share of the loss", "[train]") {
  const TinyTraining tiny;
  const std::string split = GENERATE("train/accumulate=1", "train/accumulate=2");
  const auto model = tiny.make<double>({"moe/router=reinforce", "moe/baseline_decay=0.75", split});
  const auto baseline = [&](int layer) {
    return on_host(model->store().value_vector(
        model->store().find("blocks." + std::to_string(layer) + ".moe.router.baseline")));
  };
  CHECK(baseline(0) == std::vector<double>{0, 0});
  // 128 tokens in sequences of 16: the shares sum to the task's loss.
  const double first = model->update(0).task_loss / 8;
  for (const int layer : {0, 1}) {
    CHECK(baseline(layer)[0] == Approx(first).epsilon(1e-12));
    CHECK(baseline(layer)[1] == 1);
  }
  const double second = model->update(1).task_loss / 8;
  CHECK(baseline(1)[0] == Approx(0.75 * first + 0.25 * second).epsilon(1e-12));
}
