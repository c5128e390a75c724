// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/train/electra.hpp"
#include "kokomoe/train/sentence_trainer.hpp"
#include "kokomoe/train/task.hpp"
#include "support/temporary_folder.hpp"

#include <memory>
#include <string>
#include <vector>

namespace kokomoe::test {

/// A text whose words follow each other by a rule, tables of sentences from it, and encoders small
/// enough for them. In `classes` a sentence either keeps the rule or has two neighbouring words
/// exchanged; in `numbers` it is told which share of a sentence's words is "ba".
class TinySentences {
 public:
  TinySentences() {
    std::string text[2], classes[2], numbers[2];
    for (int i = 0; i < 700; ++i) {
      const int part = i < 600 ? 0 : 1;
      std::vector<std::string> sentence = draw_sentence();
      text[part] += joined(sentence) + "\n";
      const double n = static_cast<double>(sentence.size());
      double share = 0;
      for (const std::string& word : sentence) share += word == "ba" ? 1 / n : 0;
      numbers[part] += std::to_string(share) + "\t" + joined(sentence) + "\t-\n";
      const bool changed = draw(2) == 0;
      if (changed) {
        const std::size_t at = draw(sentence.size() - 1);
        std::swap(sentence[at], sentence[at + 1]);
      }
      classes[part] += joined(sentence) + "\t" + (changed ? "no" : "yes") + "\n";
    }
    for (const int part : {0, 1}) {
      const std::string end = part == 0 ? "_train" : "_heldout";
      write_text(folder_ / ("text" + end), text[part]);
      write_text(folder_ / ("classes" + end), "text\tgood\n" + classes[part]);
      write_text(folder_ / ("numbers" + end), numbers[part]);
    }
  }

  ElectraTaskConfig electra_config(const std::vector<std::string>& overrides = {}) const {
    std::vector<std::string> notes;
    return read_electra_deck(parse_deck(deck_text("electra", "text") + "sequence_length = 32\n" +
                                            model_text() + "[electra]\ngenerator_width = 0.5\n",
                                        "electra.toml", overrides),
                             notes);
  }

  SentenceTaskConfig sentence_config(const std::string& table,
                                     const std::vector<std::string>& overrides = {}) const {
    std::vector<std::string> notes;
    const std::string columns =
        table == "classes" ? "first = \"text\"\nlabel = \"good\"\nlabels = [\"no\", \"yes\"]\n"
                           : "first = \"2\"\nsecond = \"3\"\nlabel = \"1\"\nheader = false\n";
    return read_sentence_deck(parse_deck(deck_text("sentences", table) + columns + model_text(),
                                         "sentences.toml", overrides),
                              notes);
  }

  template <class T>
  std::unique_ptr<ElectraTrainer<T>> electra(const std::vector<std::string>& overrides,
                                             const Communicator& communicator) const {
    const auto open = [&](const char* name) {
      return Corpus::open({folder_ / name}, *tokenizer_, folder_ / "cache", alone_);
    };
    return std::make_unique<ElectraTrainer<T>>(electra_config(overrides), special(), communicator,
                                               open("text_train"), open("text_heldout"));
  }
  template <class T>
  std::unique_ptr<ElectraTrainer<T>> electra(const std::vector<std::string>& overrides = {}) const {
    return electra<T>(overrides, alone_);
  }

  template <class T>
  std::unique_ptr<SentenceTrainer<T>> sentences(const std::string& table,
                                                const std::vector<std::string>& overrides,
                                                const Communicator& communicator) const {
    const SentenceTaskConfig config = sentence_config(table, overrides);
    const auto open = [&](const std::string& end) {
      return SentenceCorpus::open({folder_ / (table + end)}, config.format, *tokenizer_, alone_);
    };
    return std::make_unique<SentenceTrainer<T>>(config, special(), communicator, open("_train"),
                                                open("_heldout"));
  }
  template <class T>
  std::unique_ptr<SentenceTrainer<T>> sentences(
      const std::string& table, const std::vector<std::string>& overrides = {}) const {
    return sentences<T>(table, overrides, alone_);
  }

  SpecialTokens special() const { return SpecialTokens(*tokenizer_); }

 private:
  std::uint64_t draw(std::uint64_t n) {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return (state_ >> 33) % n;
  }

  /// Each word is one of two that may follow the one before.
  std::vector<std::string> draw_sentence() {
    const char* words[] = {"ba", "de", "fi", "go", "hu", "ky"};
    std::vector<std::string> sentence;
    std::uint64_t at = draw(6);
    for (std::uint64_t n = 4 + draw(4); n > 0; --n) {
      sentence.push_back(words[at]);
      at = (at + 1 + draw(2)) % 6;
    }
    return sentence;
  }

  static std::string joined(const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
    return text;
  }

  std::string deck_text(const std::string& task, const std::string& data) const {
    return "[run]\ntask = \"" + task + "\"\n[data]\ntrain = [\"" + (folder_ / (data + "_train")) +
           "\"]\nheldout = [\"" + (folder_ / (data + "_heldout")) + "\"]\ncache = \"" +
           (folder_ / "cache") + "\"\ntokenizer = \"bytes\"\n";
  }

  static std::string model_text() {
    return "[model]\nd_model = 32\nd_hidden = 48\nlayers = 2\nheads = 2\nmax_length = 40\n"
           "dropout = 0\nattention_dropout = 0\n[moe]\nexperts = 3\n[train]\nsteps = 20\n"
           "[optimizer]\nlearning_rate = 3e-3\nschedule = \"constant\"\n";
  }

  TemporaryFolder folder_;
  Communicator alone_;
  std::uint64_t state_ = 7;
  std::shared_ptr<const Tokenizer> tokenizer_ = make_tokenizer({}, alone_);
};

}  // namespace kokomoe::test
