// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/train/language_model.hpp"
#include "support/host_arrays.hpp"
#include "support/temporary_folder.hpp"

#include <memory>
#include <string>
#include <vector>

namespace kokomoe::test {

/// A corpus of a few kilobytes in a folder of its own, and language models small enough for it.
class TinyTraining {
 public:
  TinyTraining() {
    const char* words[] = {"light ", "and ",   "the ", "waters ",
                           "were ",  "moved ", "day ", "upon\n"};
    std::uint64_t state = 7;
    for (int i = 0; i < 1200; ++i) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      (i < 1000 ? train_ : heldout_) += words[state >> 61];
    }
    write_text(folder_ / "train.txt", train_);
    write_text(folder_ / "heldout.txt", heldout_);
  }

  std::string deck_text() const {
    return "[data]\ntrain = [\"" + (folder_ / "train.txt") + "\"]\nheldout = [\"" +
           (folder_ / "heldout.txt") + "\"]\ncache = \"" + (folder_ / "cache") +
           "\"\nsequence_length = 16\n[model]\nd_model = 16\nd_hidden = 24\nlayers = 2\n"
           "heads = 2\n[train]\nbatch_tokens = 128\nsteps = 20\n[moe]\nexperts = 3\n"
           "[optimizer]\nlearning_rate = 1e-2\n";
  }

  LanguageModelConfig config(const std::vector<std::string>& overrides = {}) const {
    std::vector<std::string> notes;
    LanguageModelConfig config = read_language_model_deck(
        parse_language_model_deck(deck_text(), "tiny.toml", overrides), notes);
    config.model.vocabulary = tokenizer_->vocabulary();
    return config;
  }

  template <class T>
  std::unique_ptr<LanguageModel<T>> make(const std::vector<std::string>& overrides = {}) const {
    return std::make_unique<LanguageModel<T>>(config(overrides), alone_, corpus("train.txt"));
  }

  Corpus corpus(const std::string& file) const {
    return Corpus::open({folder_ / file}, *tokenizer_, folder_ / "cache", alone_);
  }
  const std::string& heldout() const { return heldout_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const Communicator& alone() const { return alone_; }
  const TemporaryFolder& folder() const { return folder_; }

 private:
  TemporaryFolder folder_;
  Communicator alone_;
  std::shared_ptr<const Tokenizer> tokenizer_ = make_tokenizer({}, alone_);
  std::string train_, heldout_;
};

/// Every tensor of a store, by place.
template <class T>
std::vector<std::vector<T>> all_values(const ParameterStore<T>& store) {
  std::vector<std::vector<T>> values;
  for (int i = 0; i < static_cast<int>(store.entries().size()); ++i)
    values.push_back(on_host(store.value_vector({i})));
  return values;
}

}  // namespace kokomoe::test
