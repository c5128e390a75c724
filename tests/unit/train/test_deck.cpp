// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/train/language_model_deck.hpp"
#include "support/catch.hpp"

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

LanguageModelConfig read(const std::string& text, std::vector<std::string>& notes,
                         const std::vector<std::string>& overrides = {}) {
  return read_language_model_deck(parse_language_model_deck("[data]\ntrain = [\"a.txt\"]\n" + text, "lm.toml", overrides),
                                  notes);
}

std::string refusal(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return message_of<InputError>([&] {
    std::vector<std::string> notes;
    read(text, notes, overrides);
  });
}

}  // namespace

TEST_CASE("a deck becomes the library's own terms", "[train]") {
  std::vector<std::string> notes;
  const LanguageModelConfig c = read(
      "sequence_length = 32\neval_stride = 8\n"
      "[model]\nd_model = 24\nheads = 3\nlayers = 5\nnorm = \"layer_norm\"\n"
      "positions = \"learned\"\nactivation = \"gelu\"\nbias = true\ntied = false\ndropout = 0.1\n"
      "[moe]\nrouter = \"top_k\"\nk = 2\nexperts = 6\nevery = 2\nsoftmax = \"after\"\n"
      "jitter = 0.25\nz_loss = 0.5\noutput_gain = false\n"
      "[optimizer]\nschedule = \"linear\"\nwarmup = 3\nbeta1 = 0.5\nminimum_rate = 1e-5\n"
      "[train]\nsteps = 9\nbatch_tokens = 320\naccumulate = 5\nclip = 0\nfreeze = [\"head.*\"]\n",
      notes, {"run/seed=77"});
  CHECK(notes.empty());
  CHECK(c.seed == 77);
  CHECK_FALSE(c.double_precision);
  CHECK(c.model.moe.d_model == 24);
  CHECK(c.model.heads == 3);
  CHECK(c.model.layers == 5);
  CHECK(c.model.max_length == 32);
  CHECK(c.model.norm == NormKind::layer);
  CHECK(c.model.positions == Positions::learned);
  CHECK(c.model.moe.activation == Activation::gelu);
  CHECK((c.model.bias && c.model.moe.bias));
  CHECK_FALSE(c.model.tied);
  CHECK(c.model.dropout == 0.1);
  CHECK(c.model.moe_every == 2);
  CHECK(c.model.moe.router == "top_k");
  CHECK(c.model.moe.k == 2);
  CHECK(c.model.moe.experts == 6);
  CHECK(c.model.moe.options.text("softmax") == "after");
  CHECK(c.model.moe.options.real("jitter") == 0.25);
  CHECK(c.model.moe.z_loss == 0.5);
  CHECK_FALSE(c.model.moe.output_gain);
  CHECK(c.schedule.kind == Schedule::Kind::linear);
  CHECK(c.schedule.warmup == 3);
  CHECK(c.schedule.total == 9);
  CHECK(c.schedule.minimum == 1e-5);
  CHECK(c.optimizer.beta1 == 0.5);
  CHECK(c.clip == 0);
  CHECK(c.accumulate == 5);
  CHECK(c.freeze == std::vector<std::string>{"head.*"});
  CHECK(c.train_files == std::vector<std::string>{"a.txt"});
  CHECK(c.eval_stride == 8);
}

TEST_CASE("what keys cannot say alone is refused where it stands in the deck", "[train]") {
  // Line 3 is the first one of these texts.
  struct Bad {
    const char* text;
    const char* place;
    const char* part;
  };
  const Bad bad[] = {
      {"[moe]\nrouter = \"top_k\"\nexperts = 4\nk = 5\n",
       "lm.toml:6:", "k = 5 of 4 experts"},
      {"[moe]\nrouter = \"switch\"\nk = 2\n", "lm.toml:5:", "\"switch\": k must be 1, not 2"},
      {"[model]\nd_model = 10\nheads = 3\n", "lm.toml:5:", "3 heads do not divide d_model = 10"},
      {"[model]\nd_model = 9\nheads = 3\n", "lm.toml:5:", "an even number of channels a head"},
      {"sequence_length = 48\n[train]\nbatch_tokens = 100\n",
       "lm.toml:5:", "a multiple of data/sequence_length = 48"},
      {"sequence_length = 64\n[train]\nbatch_tokens = 128\naccumulate = 3\n",
       "lm.toml:6:", "more micro-batches than the 2 sequences"},
      {"sequence_length = 64\neval_stride = 65\n",
       "lm.toml:4:", "exceeds data/sequence_length = 64"},
      {"[parallel]\nexpert_ranks = -1\n", "lm.toml:4:", "expert_ranks"},
      {"[moe]\nexperst = 4\n", "lm.toml:4:", "moe/experts"},
      {"[moe]\nrouter = \"sparse_mixer\"\n", "lm.toml:4:", "sparsemixer"},
      {"[model]\ndropout = 1.5\n", "lm.toml:4:", "dropout"},
      {"[run]\nprecision = \"half\"\n", "lm.toml:4:", "double"},
  };
  for (const Bad& b : bad) {
    INFO(b.text);
    const std::string message = refusal(b.text);
    CHECK_THAT(message, contains(b.place));
    CHECK_THAT(message, contains(b.part));
    CHECK_THAT(message, contains("^"));
  }
}

TEST_CASE("a deck without training files is refused", "[train]") {
  const auto message = [](const std::string& text) {
    return message_of<InputError>([&] {
      std::vector<std::string> notes;
      read_language_model_deck(parse_language_model_deck(text, "lm.toml"), notes);
    });
  };
  CHECK_THAT(message("[moe]\nk = 1\n"), contains("data/train"));
  CHECK_THAT(message("[data]\ntrain = []\n"), contains("lm.toml:2:"));
  CHECK_THAT(message("[data]\ntrain = []\n"), contains("names no file"));
}

TEST_CASE("a bad override is refused as one", "[train]") {
  const std::string message = refusal("", {"model/heads=3"});
  CHECK_THAT(message, contains("model/heads=3"));
  CHECK_THAT(message, contains("3 heads do not divide d_model = 128"));
}

TEST_CASE("options of other routers are noted, not refused", "[train]") {
  std::vector<std::string> notes;
  const LanguageModelConfig c =
      read("[moe]\nrouter = \"switch\"\nmask_eps = 0.2\njitter = 0.1\nsampling = false\n", notes);
  CHECK(c.model.moe.options.real("jitter") == 0.1);
  REQUIRE(notes.size() == 2);
  CHECK(notes[0] == "moe/mask_eps is not used by router \"switch\"");
  CHECK(notes[1] == "moe/sampling is not used by router \"switch\"");

  notes.clear();
  read("[moe]\nrouter = \"top_k\"\njitter = 0.1\n", notes);  // two routers take jitter
  CHECK(notes.empty());
  notes.clear();
  read("[moe]\nevery = 0\nk = 9\n", notes);  // no MoE layer, nothing to check
  CHECK(notes.empty());
}

TEST_CASE("the effective deck reads as the same model", "[train]") {
  std::vector<std::string> notes;
  const Deck deck =
      parse_language_model_deck("[data]\ntrain = [\"a.txt\"]\n[moe]\nrouter = \"switch\"\n",
                                "lm.toml", {"moe/jitter=0.3", "model/d_model=64"});
  const Deck again = parse_language_model_deck(deck.effective(), "effective.toml");
  const LanguageModelConfig a = read_language_model_deck(deck, notes);
  notes.clear();
  const LanguageModelConfig b = read_language_model_deck(again, notes);
  CHECK(b.model.moe.router == "switch");
  CHECK(b.model.moe.options.real("jitter") == 0.3);
  CHECK(b.model.moe.d_model == a.model.moe.d_model);
  CHECK(b.optimizer.beta2 == a.optimizer.beta2);
}

TEST_CASE("groups lie over ranks only where somebody looks at groups", "[train]") {
  std::vector<std::string> notes;
  const std::string deck =
      "sequence_length = 32\n[train]\nbatch_tokens = 384\n"
      "[moe]\nrouting_group = 96\nallow_future = true\n";
  const auto over_ranks = [&](const std::vector<std::string>& overrides) {
    return read(deck, notes, overrides).model.moe.group_over_ranks;
  };
  CHECK(over_ranks({"moe/router=expert_choice", "moe/balance=0"}));
  CHECK(over_ranks({"moe/router=switch", "moe/capacity_factor=1.5"}));
  CHECK_FALSE(over_ranks({"moe/router=switch"}));
  CHECK_FALSE(over_ranks({"moe/router=noisy_top_k"}));
  CHECK_FALSE(over_ranks({"moe/router=expert_choice", "moe/balance=0", "moe/routing_group=32"}));
}
