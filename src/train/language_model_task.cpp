// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/train/language_model.hpp"
#include "kokomoe/train/rehearsal.hpp"
#include "train/step_planner.hpp"
#include "train/tasks.hpp"

namespace kokomoe::detail {

namespace {

class LanguageModelTask : public TaskWith<LanguageModelTask, LanguageModelConfig> {
 public:
  using TaskWith::TaskWith;

  bool looks_ahead() const override { return kokomoe::looks_ahead(config_); }
  void rehearse(const Deck& deck, DataUse) const override {
    rehearse_language_model(deck, config_);
  }

  StepPlan plan(int ranks, double length, const Communicator& communicator,
                std::vector<std::string>& notes) const override {
    refuse_length(length, config_.sequence_length);
    LanguageModelConfig config = config_;
    config.model.vocabulary = planned_vocabulary(config.tokenizer, communicator, notes);
    return plan_step(with_stand_ins(std::move(config)), ranks);
  }

  template <class T>
  std::unique_ptr<Trainer<T>> make_trainer(std::shared_ptr<const Tokenizer> tokenizer,
                                           const Communicator& communicator, DataUse use) const {
    LanguageModelConfig config = config_;
    config.model.vocabulary = tokenizer->vocabulary();
    const auto open = [&](const std::vector<std::string>& files) {
      return Corpus::open(files, *tokenizer, config.cache_folder, communicator);
    };
    std::optional<Corpus> train, heldout;
    if (use == DataUse::training || use == DataUse::resuming) train = open(config.train_files);
    if (use != DataUse::none && !config.heldout_files.empty()) heldout = open(config.heldout_files);
    return std::make_unique<LanguageModel<T>>(config, communicator, std::move(train),
                                              std::move(heldout));
  }
};

}  // namespace

std::unique_ptr<Task> read_language_model_task(const Deck& deck, std::vector<std::string>& notes) {
  return std::make_unique<LanguageModelTask>(read_language_model_deck(deck, notes));
}

}  // namespace kokomoe::detail
