// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/train/task.hpp"

namespace kokomoe::detail {

// What the registry calls; each stands in the source of its task.
std::unique_ptr<Task> read_language_model_task(const Deck& deck, std::vector<std::string>& notes);
std::unique_ptr<Task> read_translation_task(const Deck& deck, std::vector<std::string>& notes);

/// The rest of a task whose deck says Config and whose trainers come from make<T>(tokenizer,
/// communicator, use).
template <class Derived, class Config>
class TaskWith : public Task {
 public:
  explicit TaskWith(Config config) : config_(std::move(config)) {}
  TrainConfig& config() override { return config_; }
  const MoeConfig& moe() const override { return config_.model.moe; }
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
