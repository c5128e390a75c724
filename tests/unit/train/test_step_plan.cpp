// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/train/rehearsal.hpp"
#include "kokomoe/train/step_plan.hpp"
#include "support/catch.hpp"
#include "support/tiny_pairs.hpp"
#include "support/tiny_sentences.hpp"
#include "support/tiny_training.hpp"

#include <string>
#include <vector>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

using Settings = std::vector<std::string>;

/// Large enough that what is as small as a number a token does not show.
Settings with_size(Settings more) {
  Settings settings{"model/d_model=64", "model/d_hidden=96",       "model/heads=4",
                    "moe/experts=8",    "train/batch_tokens=1024", "moe/allow_future=true"};
  settings.insert(settings.end(), more.begin(), more.end());
  return settings;
}

LanguageModelConfig config_of(const TinyTraining& tiny, const Settings& settings) {
  LanguageModelConfig config = tiny.config(settings);
  config.model.vocabulary = 0;  // a plan reads no text
  return with_stand_ins(config);
}

/// Makes one update and an evaluation, and compares.
template <class T>
void check_against_update(const StepPlan& plan, Trainer<T>& model) {
  model.update(0);
  CHECK(plan.model.total().parameters == static_cast<double>(model.store().parameters()));
  CHECK(plan.memory.replicated.total() + plan.memory.experts.total() ==
        static_cast<double>(model.store().bytes()));
  if (model.heldout_tokens() > 0) model.evaluate_heldout();
  CHECK(plan.memory.saved == Approx(static_cast<double>(model.saved_bytes())).epsilon(0.1));
  CHECK(plan.memory.scratch == Approx(static_cast<double>(model.scratch_bytes())).epsilon(0.1));
}

template <class T>
void check_against_update(const Settings& settings) {
  const TinyTraining tiny;
  check_against_update<T>(plan_step(config_of(tiny, settings), 1), *tiny.make<T>(settings));
}

}  // namespace

TEST_CASE("a plan has the parameters and the memory of the model that is trained", "[train]") {
  const Settings settings = GENERATE(
      Settings{"moe/every=0"}, Settings{"moe/every=0", "model/activation=relu", "model/bias=true"},
      Settings{"moe/every=0", "model/d_model=32", "model/tied=false", "model/positions=learned"},
      Settings{}, Settings{"moe/every=2", "model/layers=3", "model/norm=layer_norm"},
      Settings{"moe/router=top_k", "moe/k=3", "moe/shared_experts=2", "moe/output_gain=true"},
      Settings{"moe/router=switch", "model/bias=true", "train/accumulate=2"},
      Settings{"parallel/expert_kernels=gemm"}, Settings{"moe/recompute=true"},
      Settings{"moe/recompute=true", "moe/router=top_k", "moe/k=2", "moe/shared_experts=1"},
      Settings{"moe/router=dense_mixture", "moe/experts=3", "moe/balance=0"},
      Settings{"train/freeze=[\"*.router.weight\", \"embedding.*\"]"});
  INFO(settings.size() << " settings, the first: " << (settings.empty() ? "" : settings[0]));
  check_against_update<float>(with_size(settings));
}

TEST_CASE("a plan knows the memory of double precision and of layout-free steps", "[train]") {
  check_against_update<double>(with_size({"run/precision=double"}));
  check_against_update<float>(with_size({"parallel/deterministic=layout"}));
  check_against_update<float>(with_size({"parallel/deterministic=layout", "moe/every=0"}));
}

TEST_CASE("a plan knows what is kept in bfloat16", "[train]") {
  const Settings settings = GENERATE(
      Settings{}, Settings{"moe/every=0"}, Settings{"parallel/expert_kernels=gemm"},
      Settings{"moe/every=0", "parallel/expert_kernels=gemm", "model/activation=gelu"},
      Settings{"moe/recompute=true", "model/dropout=0.1"},
      Settings{"parallel/deterministic=layout"},
      Settings{"moe/weights=bfloat16", "parallel/expert_kernels=blocks"},
      Settings{"moe/router=top_k", "moe/k=2", "moe/shared_experts=1", "run/precision=double"});
  INFO(settings.size() << " settings, the first: " << (settings.empty() ? "" : settings[0]));
  const bool wants_blocks = !settings.empty() && settings[0] == "moe/weights=bfloat16";
  if (wants_blocks && !by_blocks(ExpertKernels::blocks, false)) return;  // a device
  Settings rounded = with_size(settings);
  rounded.push_back("run/activations=bfloat16");
  const bool precise = settings.size() == 4;
  if (precise)
    check_against_update<double>(rounded);
  else
    check_against_update<float>(rounded);
  const TinyTraining tiny;
  const double whole = plan_step(config_of(tiny, with_size(settings)), 1).memory.saved;
  const double spared = whole - plan_step(config_of(tiny, rounded), 1).memory.saved;
  // Of a token and layer: two norms' results, half of queries, keys and values; of a row half of
  // the gate and its partner, or less with another activation or where experts run again.
  constexpr double tokens = 1024, layers = 2, d = 64, h = 96;
  const double number = precise ? 8 : 4;
  CHECK(spared > 0.99 * tokens * layers * (2 * d * number + 3 * d * (number - 2)));
  if (settings.empty())
    CHECK(spared == Approx(tokens * layers * (2 * d * 4 + 3 * d * 2 + 2 * h * 2)).epsilon(0.01));
}

TEST_CASE("a plan knows what each router keeps", "[train]") {
  const std::string router =
      GENERATE("noisy_top_k", "xmoe", "hash", "deepseek_v3", "default_moe", "reinforce", "gshard",
               "s_base", "quantile_balance", "expert_choice");
  INFO(router);
  Settings settings = with_size({"moe/router=" + router, "moe/experts=32"});
  const TinyTraining tiny;
  const StepPlan plan = plan_step(config_of(tiny, settings), 1);
  const auto model = tiny.make<float>(settings);
  model->update(0);
  CHECK(plan.model.total().parameters == static_cast<double>(model->store().parameters()));
  CHECK(plan.memory.saved == Approx(static_cast<double>(model->saved_bytes())).epsilon(0.1));
}

TEST_CASE("plans of translations have the parameters and the memory of training", "[train]") {
  const TinyPairs pairs;
  const Settings more = GENERATE(
      Settings{}, Settings{"moe/every=0"}, Settings{"moe/every=1", "moe/recompute=true"},
      Settings{"model/post_norm=false"}, Settings{"model/post_norm=false", "model/dropout=0"},
      Settings{"moe/router=switch"}, Settings{"run/activations=bfloat16"},
      Settings{"run/activations=bfloat16", "model/post_norm=false"});
  INFO((more.empty() ? "as it is" : more.front()) << ", " << more.size());
  Settings settings{"model/d_model=64", "model/d_hidden=96", "model/heads=4",
                    "train/batch_tokens=1024"};
  settings.insert(settings.end(), more.begin(), more.end());
  const auto model = pairs.make<float>(settings);
  // Sides are equally long here, and an update has as many tokens as pairs come to.
  TranslationConfig config = pairs.config(settings);
  config.batch_tokens = model->update(0).tokens;
  check_against_update<float>(plan_step(config, 1), *model);
}

TEST_CASE("parts of an update of pairs have room for a long one", "[train]") {
  const TinyPairs pairs;
  const Settings settings{"model/d_model=64", "model/d_hidden=96", "model/heads=4",
                          "train/batch_tokens=320", "train/accumulate=8"};
  const auto model = pairs.make<float>(settings);
  for (std::int64_t step = 0; step < 5; ++step) model->update(step);
  model->evaluate_heldout();
  const StepPlan plan = plan_step(pairs.config(settings), 1);
  CHECK(plan.micro_batch_tokens == 320 / 8 + 32);
  CHECK(plan.rank_tokens == 320);
  const auto saved = static_cast<double>(model->saved_bytes());
  CHECK(plan.memory.saved > saved);
  CHECK(plan.memory.saved < 2 * saved);
  // However many ranks share it, no pair is split.
  CHECK(plan_step(pairs.config(settings), 1024).micro_batch_tokens == 1 + 32);
}

TEST_CASE("plans of ELECTRA have the parameters and the memory of training", "[train]") {
  const TinySentences data;
  const Settings more = GENERATE(
      Settings{}, Settings{"moe/every=0"}, Settings{"moe/recompute=true", "model/dropout=0.1"},
      Settings{"model/post_norm=false"}, Settings{"model/positions=rotary", "moe/router=switch"},
      Settings{"run/activations=bfloat16", "model/post_norm=false", "train/accumulate=2"});
  INFO((more.empty() ? "as it is" : more.front()) << ", " << more.size());
  Settings settings{"model/d_model=64", "model/d_hidden=96", "model/heads=4",
                    "train/batch_tokens=2048"};
  settings.insert(settings.end(), more.begin(), more.end());
  ElectraTaskConfig config = data.electra_config(settings);
  config.model.discriminator.vocabulary = data.special().vocabulary;
  check_against_update<float>(plan_step(config, 1), *data.electra<float>(settings));
}

TEST_CASE("plans of sentences have the parameters and the memory of training", "[train]") {
  const TinySentences data;
  const char* table = GENERATE("classes", "numbers");
  const Settings more =
      GENERATE(Settings{}, Settings{"moe/every=1", "train/accumulate=2"},
               Settings{"model/post_norm=false", "model/positions=rotary", "model/dropout=0.1"});
  INFO(table << ", " << (more.empty() ? "as it is" : more.front()));
  Settings settings{"model/d_model=64", "model/d_hidden=96", "model/heads=4",
                    "train/batch_sentences=128"};
  settings.insert(settings.end(), more.begin(), more.end());
  const auto model = data.sentences<float>(table, settings);
  const std::int64_t tokens = model->update(0).tokens;
  const double length = static_cast<double>(tokens) / 128;
  SentenceTaskConfig config = data.sentence_config(table, settings);
  config.model.encoder.vocabulary = data.special().vocabulary;
  const StepPlan plan = plan_step(config, 1, length);
  CHECK(plan.update_tokens == tokens);
  check_against_update<float>(plan, *model);
  // Without a length, sequences are as long as they may be.
  const StepPlan longest = plan_step(config, 1);
  CHECK(longest.length == 40);
  CHECK(longest.update_tokens == 128 * 40);
  CHECK(longest.memory.saved == Approx(plan.memory.saved * 40 / length).epsilon(0.04));
  CHECK(plan_step(config, 1, 1e6).update_tokens == 128 * 40);
}

TEST_CASE("operations of a token are those that the layers' products do", "[train]") {
  const TinyTraining tiny;
  constexpr double d = 64, h = 96, experts = 8, layers = 2, vocabulary = 257, keys = 8.5;
  const double attention = layers * (2 * 4 * d * d + 4 * d * keys);
  const double head = 2 * d * vocabulary;
  const ModelCount dense = plan_step(config_of(tiny, with_size({"moe/every=0"})), 1).model;
  CHECK(dense.part(ModelPart::attention).forward_flops == attention);
  CHECK(dense.part(ModelPart::feed_forward).forward_flops == layers * 6 * d * h);
  CHECK(dense.part(ModelPart::head).forward_flops == head);
  CHECK(dense.part(ModelPart::embedding).forward_flops == 0);
  CHECK(dense.total().active == dense.total().parameters);
  CHECK(dense.flops() == 3 * (attention + layers * 6 * d * h + head));

  const ModelCount sparse =
      plan_step(config_of(tiny, with_size({"moe/router=top_k", "moe/k=2", "model/bias=true"})), 1)
          .model;
  CHECK(sparse.rows == 2);
  CHECK(sparse.part(ModelPart::router).forward_flops == layers * 2 * d * experts);
  CHECK(sparse.part(ModelPart::experts).forward_flops == layers * 2 * 6 * d * h);
  CHECK(sparse.part(ModelPart::experts).parameters == layers * experts * (3 * d * h + 2 * h + d));
  CHECK(sparse.part(ModelPart::experts).active == layers * 2 * (3 * d * h + 2 * h + d));

  const ModelCount choice =
      plan_step(config_of(tiny, with_size({"moe/router=expert_choice"})), 1).model;
  CHECK(choice.rows == 2);  // its capacity
}

TEST_CASE("operations of an encoder's and a translation's tokens", "[train]") {
  // Two layers, the first with experts, of which one of three sees a token; feed-forwards of two
  // matrices (GELU).
  constexpr double d = 64, h = 96;
  const Settings settings{"model/d_model=64", "model/d_hidden=96", "model/heads=4",
                          "moe/router=switch", "moe/every=2"};
  const auto layers = [](double channels, double hidden, double keys) {
    return 2 * (2 * 4 * channels * channels + 4 * channels * keys + 4 * channels * hidden);
  };
  const double router = 2 * d * 3;

  const TinySentences data;
  ElectraTaskConfig electra = data.electra_config(settings);
  electra.model.discriminator.vocabulary = data.special().vocabulary;
  // The generator has half of the width; its head sees the 15 % that are hidden.
  const double generator =
      layers(d / 2, h / 2, 32) + 2 * d * d / 2 + 2 * 0.15 * d * (d / 2 + data.special().vocabulary);
  const double discriminator = layers(d, h, 32) + router + 2 * d * d + 2 * d;
  const ModelCount count = plan_step(electra, 1).model;
  REQUIRE(count.stack_flops.size() == 2);
  CHECK(count.stack_flops[0] == Approx(3 * generator));
  CHECK(count.stack_flops[1] == Approx(3 * discriminator));
  CHECK(count.flops() == Approx(3 * (generator + discriminator)));

  SentenceTaskConfig sentences = data.sentence_config("classes", settings);
  sentences.model.encoder.vocabulary = data.special().vocabulary;
  CHECK(plan_step(sentences, 1, 20).model.flops() ==
        Approx(3 * (layers(d, h, 20) + router + (2 * d * d + 2 * d * 2) / 20)));

  const TinyPairs pairs;
  const ModelCount both = plan_step(pairs.config(settings), 1, 10).model;
  REQUIRE(both.stack_flops.size() == 2);
  CHECK(both.stack_flops[0] == Approx(3 * (layers(d, h, 10) + router)));
  CHECK(both.stack_flops[1] ==
        Approx(3 * (layers(d, h, 5.5) + 2 * (2 * 4 * d * d + 4 * d * 10) + router + 2 * d * 257)));
}

TEST_CASE("ranks share tokens and experts, and hand over rows and gradients", "[train]") {
  const TinyTraining tiny;
  const Settings settings =
      with_size({"moe/router=top_k", "moe/k=2", "moe/experts=6", "parallel/expert_ranks=4"});
  const StepPlan alone =
      plan_step(config_of(tiny, with_size({"moe/router=top_k", "moe/k=2", "moe/experts=6"})), 1);
  const StepPlan plan = plan_step(config_of(tiny, settings), 8);
  CHECK(plan.expert_ranks == 4);
  CHECK(plan.rank_tokens == 1024 / 8);
  CHECK(plan.model.total().parameters == alone.model.total().parameters);
  CHECK(plan.memory.replicated.total() == alone.memory.replicated.total());
  CHECK(plan.memory.experts.values == alone.memory.experts.values * 2 / 6);  // the busiest rank's
  CHECK(plan.memory.saved < alone.memory.saved / 7);
  // Two rows a token in each of two layers, three of four to other ranks.
  const double rows = 128 * 2 * 2 * 0.75;
  CHECK(plan.traffic.dispatch == rows * 64 * 4);
  CHECK(plan.traffic.combine_backward == rows * 65 * 4);
  CHECK(plan.traffic.replicated_gradients == plan.memory.replicated.gradients);
  CHECK(plan.traffic.expert_gradients == plan.memory.experts.gradients);
  CHECK(alone.traffic.exchanged() == 0);
  CHECK(alone.traffic.replicated_gradients == 0);

  const StepSeconds seconds = predict_step(plan, {1e9, 1e9, 0});
  CHECK(seconds.arithmetic == Approx(plan.model.flops() * 128 / 1e9));
  CHECK(seconds.exchange == Approx(plan.traffic.exchanged() / 1e9));
  CHECK(seconds.reduction == Approx((plan.traffic.replicated_gradients * 14 / 8 +
                                     plan.traffic.expert_gradients * 2 / 2) /
                                    1e9));
  CHECK(predict_step(plan, {1e9, 1e9, 1e-6}).exchange > seconds.exchange);
}

TEST_CASE("an evaluation takes no more memory than a micro-batch", "[train]") {
  const TinyTraining tiny;
  const Settings settings = with_size({"train/accumulate=4"});
  const StepPlan plan = plan_step(config_of(tiny, settings), 2);
  CHECK(plan.micro_batch_tokens == 1024 / 8);
  CHECK(plan.rank_tokens == 1024 / 2);
  const LanguageModelConfig config = tiny.config(settings);
  LanguageModel<float> model(config, tiny.alone(), tiny.corpus("train.txt"),
                             tiny.corpus("heldout.txt"));
  model.update(0);
  const std::size_t saved = model.saved_bytes(), scratch = model.scratch_bytes();
  model.evaluate_heldout();
  CHECK(model.heldout_tokens() > 256);
  CHECK(model.saved_bytes() < saved + 4096);  // its sums
  CHECK(model.scratch_bytes() == scratch);
}

TEST_CASE("a plan of a model that no machine holds", "[train]") {
  const TinyTraining tiny;
  const Settings settings{"model/layers=200",
                          "model/d_model=32768",
                          "model/d_hidden=131072",
                          "model/heads=256",
                          "moe/experts=1024",
                          "moe/router=top_k",
                          "moe/k=8",
                          "data/sequence_length=8192",
                          "train/batch_tokens=67108864",
                          "parallel/expert_ranks=1024"};
  const StepPlan plan = plan_step(config_of(tiny, settings), 8192);
  const double one = 3.0 * 32768 * 131072;
  CHECK(plan.model.part(ModelPart::experts).parameters == 200 * 1024 * one);
  CHECK(plan.model.part(ModelPart::experts).active == 200 * 8 * one);
  CHECK(plan.memory.experts.values == 200 * one * 4);
  CHECK(plan.memory.total() > 1e13);
}

TEST_CASE("plans of decks that do not go together are refused", "[train]") {
  const TinyTraining tiny;
  CHECK_THAT(
      message_of<InputError>([&] { plan_step(config_of(tiny, {"parallel/expert_ranks=3"}), 4); }),
      contains("parallel/expert_ranks: 3 does not divide 4 rank(s)"));
  CHECK_THAT(
      message_of<InputError>([&] { plan_step(config_of(tiny, {"train/freeze=[\"x*\"]"}), 1); }),
      contains("train/freeze: no tensor matches \"x*\""));
}
