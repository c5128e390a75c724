// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/train/data_files.hpp"
#include "kokomoe/train/language_model_deck.hpp"
#include "support/catch.hpp"
#include "support/temporary_folder.hpp"

using namespace kokomoe;
using namespace kokomoe::test;

TEST_CASE("files that a deck names are looked for before any work", "[train]") {
  const TemporaryFolder folder;
  write_text(folder / "a.txt", "a");
  const std::string text = "[data]\ntrain = [\"" + (folder / "a.txt") +
                           "\"]\nheldout = [\"missing/heldout.txt\"]\n"
                           "tokenizer_model = \"missing.model\"\n";
  const auto refusal = [&](DataUse use, bool from_checkpoint,
                           const std::vector<std::string>& overrides) {
    const Deck deck = Deck::parse(text, "lm.toml", language_model_schema(), overrides);
    return message_of<InputError>(
        [&] { require_data_files(deck, use, from_checkpoint, Communicator()); });
  };
  const std::string here = "data/heldout=" + (folder / "a.txt");

  CHECK_THAT(
      refusal(DataUse::training, false, {}),
      contains("lm.toml:3:11: error: \"data/heldout\": missing/heldout.txt: file not found"));
  CHECK_THAT(refusal(DataUse::training, false, {"data/train=none.txt"}),
             contains("none.txt: file not found"));
  CHECK_THAT(refusal(DataUse::training, false, {here, "data/tokenizer=sentencepiece"}),
             contains("missing.model: file not found"));

  // A checkpoint's deck was made elsewhere.
  const std::string message = refusal(DataUse::evaluation, true, {"data/train=none.txt"});
  CHECK_THAT(message, contains("the path comes from the checkpoint's deck"));
  CHECK_THAT(message, contains("data/heldout=... overrides it"));
  CHECK_THAT(refusal(DataUse::evaluation, true, {"data/heldout=none.txt"}),
             !contains("comes from the checkpoint"));

  const auto accepted = [&](DataUse use, const std::vector<std::string>& overrides) {
    require_data_files(Deck::parse(text, "lm.toml", language_model_schema(), overrides), use, true,
                       Communicator());
  };
  accepted(DataUse::training, {here});
  accepted(DataUse::resuming, {here, "data/tokenizer=sentencepiece"});
  accepted(DataUse::evaluation, {here, "data/train=none.txt"});
}

TEST_CASE("a warm-up that takes the whole run is noted", "[train]") {
  LanguageModelConfig config;
  std::vector<std::string> notes;
  config.steps = 10;
  config.schedule.warmup = 9;
  note_schedule(config, notes);
  CHECK(notes.empty());
  config.schedule.warmup = 10;
  note_schedule(config, notes);
  REQUIRE(notes.size() == 1);
  CHECK_THAT(notes[0], contains("optimizer/warmup = 10 takes all of train/steps = 10"));
}
