// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/train/task.hpp"
#include "kokomoe/train/translation.hpp"
#include "support/temporary_folder.hpp"

#include <memory>
#include <string>
#include <vector>

namespace kokomoe::test {

/// A few hundred pairs of sentences in a folder of its own: the target says the source's words in
/// reverse and in capitals. And translation models small enough for it.
class TinyPairs {
 public:
  TinyPairs() {
    const char* words[] = {"ab", "cd", "e", "fgh", "ij", "k"};
    std::uint64_t state = 11;
    const auto draw = [&](std::uint64_t n) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      return (state >> 33) % n;
    };
    std::string text[4];
    for (int i = 0; i < 260; ++i) {
      std::string source, target;
      for (std::uint64_t n = 1 + draw(5); n > 0; --n) {
        const std::string word = words[draw(6)];
        std::string capitals = word;
        for (char& c : capitals) c = static_cast<char>(c - 'a' + 'A');
        source += (source.empty() ? "" : " ") + word;
        target = capitals + (target.empty() ? "" : " ") + target;
      }
      text[i < 200 ? 0 : 2] += source + "\n";
      text[i < 200 ? 1 : 3] += target + "\n";
    }
    const char* names[] = {"train.a", "train.b", "heldout.a", "heldout.b"};
    for (int i = 0; i < 4; ++i) write_text(folder_ / names[i], text[i]);
  }

  std::string deck_text() const {
    const auto list = [&](const char* key, const char* file) {
      return std::string(key) + " = [\"" + (folder_ / file) + "\"]\n";
    };
    return "[run]\ntask = \"translation\"\n[data]\n" + list("train_source", "train.a") +
           list("train_target", "train.b") + list("heldout_source", "heldout.a") +
           list("heldout_target", "heldout.b") + "cache = \"" + (folder_ / "cache") +
           "\"\ntokenizer = \"bytes\"\nmax_length = 32\n[model]\nd_model = 16\nd_hidden = 24\n"
           "layers = 2\nheads = 2\n[train]\nbatch_tokens = 160\nsteps = 20\n[moe]\nexperts = 3\n"
           "[optimizer]\nlearning_rate = 1e-2\nschedule = \"constant\"\n";
  }

  TranslationConfig config(const std::vector<std::string>& overrides = {}) const {
    std::vector<std::string> notes;
    TranslationConfig config =
        read_translation_deck(parse_deck(deck_text(), "pairs.toml", overrides), notes);
    config.model.vocabulary = tokenizer_->vocabulary();
    return config;
  }

  template <class T>
  std::unique_ptr<Translation<T>> make(const std::vector<std::string>& overrides = {}) const {
    return make<T>(overrides, alone_);
  }
  template <class T>
  std::unique_ptr<Translation<T>> make(const std::vector<std::string>& overrides,
                                       const Communicator& communicator) const {
    return std::make_unique<Translation<T>>(config(overrides), communicator, corpus("train"),
                                            corpus("heldout"));
  }

  PairCorpus corpus(const std::string& name) const {
    return PairCorpus::open({folder_ / (name + ".a")}, {folder_ / (name + ".b")}, *tokenizer_,
                            folder_ / "cache", alone_);
  }
  const TemporaryFolder& folder() const { return folder_; }

 private:
  TemporaryFolder folder_;
  Communicator alone_;
  std::shared_ptr<const Tokenizer> tokenizer_ = make_tokenizer({}, alone_);
};

}  // namespace kokomoe::test
