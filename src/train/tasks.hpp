// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/error.hpp"
#include "kokomoe/train/task.hpp"

namespace kokomoe::detail {

// What the registry calls; each stands in the source of its task.
std::unique_ptr<Task> read_language_model_task(const Deck& deck, std::vector<std::string>& notes);
std::unique_ptr<Task> read_translation_task(const Deck& deck, std::vector<std::string>& notes);
std::unique_ptr<Task> read_electra_task(const Deck& deck, std::vector<std::string>& notes);
std::unique_ptr<Task> read_sentence_task(const Deck& deck, std::vector<std::string>& notes);

/// A deck of the same task and router that sets nothing.
Deck defaults_of(const Deck& deck);
/// Whether somebody wants this value: a checkpoint's deck sets every key, most to its default.
inline bool asked(const Deck& deck, const Deck& defaults, const std::string& key) {
  return deck.given(key) && deck.toml(key) != defaults.toml(key);
}

/// Of the tokenizer that is to be made, for models that are declared before it.
inline int stand_in_vocabulary(const TokenizerOptions& tokenizer) {
  return tokenizer.kind == "bytes" ? 257 : tokenizer.vocabulary;
}

/// Plans of what the deck itself says the lengths of.
inline void refuse_length(double length, int sequence_length) {
  if (length > 0)
    throw InputError("a length of sequences cannot be assumed: data/sequence_length = " +
                     std::to_string(sequence_length) + " says it");
}

/// Declares a model without memory for it, and refuses what cannot be.
template <class T, template <class> class Model, class ModelConfig>
void require_model(const Deck& deck, const TrainConfig& config, const ModelConfig& model_config) {
  ParameterStore<T> store;  // never allocated
  const Model<T> model(model_config, store);
  for (const std::string& pattern : config.freeze)
    if (store.freeze(pattern) == 0)
      deck.refuse("train/freeze", "no tensor matches \"" + pattern + "\"");
}

/// The rest of a task whose deck says Config and whose trainers come from make<T>(tokenizer,
/// communicator, use).
template <class Derived, class Config>
class TaskWith : public Task {
 public:
  explicit TaskWith(Config config) : config_(std::move(config)) {}
  TrainConfig& config() override { return config_; }
  const TrainConfig& config() const override { return config_; }
  const MoeConfig& moe() const override { return config_.moe(); }
  std::unique_ptr<Trainer<float>> make_float(std::shared_ptr<const Tokenizer> tokenizer,
                                             const Communicator& communicator,
                                             DataUse use) const override {
    return derived().template make_trainer<float>(std::move(tokenizer), communicator, use);
  }
  std::unique_ptr<Trainer<double>> make_double(std::shared_ptr<const Tokenizer> tokenizer,
                                               const Communicator& communicator,
                                               DataUse use) const override {
    return derived().template make_trainer<double>(std::move(tokenizer), communicator, use);
  }

 protected:
  Config config_;

 private:
  const Derived& derived() const { return static_cast<const Derived&>(*this); }
};

}  // namespace kokomoe::detail
