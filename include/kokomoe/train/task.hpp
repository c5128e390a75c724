// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/io/deck.hpp"
#include "kokomoe/train/step_plan.hpp"
#include "kokomoe/train/trainer.hpp"

#include <memory>
#include <string>
#include <vector>

namespace kokomoe {

/// What a command reads: all data and the tokenizer's model; all data, with the checkpoint's
/// tokenizer; held-out data; no data.
enum class DataUse { training, resuming, evaluation, none };

/// What a deck of some task says, checked.
class Task {
 public:
  virtual ~Task() = default;

  virtual TrainConfig& config() = 0;
  virtual const TrainConfig& config() const = 0;
  virtual const MoeConfig& moe() const = 0;
  /// True when an output may depend on later tokens that it must not know.
  virtual bool looks_ahead() const { return false; }
  /// The tokenizer of a run that begins. Collective. See kokomoe::make_tokenizer on `notes`.
  virtual std::shared_ptr<const Tokenizer> make_tokenizer(const Communicator& communicator,
                                                          std::vector<std::string>& notes) const;
  /// Finds before any work, and without memory for a model, what training would refuse later. Files
  /// and runs that are not there are passed over: require_data_files refuses those. InputError that
  /// points at the key. On the root alone.
  virtual void rehearse(const Deck& deck, DataUse use) const = 0;
  /// What the deck asks of each of `ranks` ranks. Reads no data, but for a tokenizer's model; what
  /// it takes for granted instead goes to `notes`. `length`: see plan_step; InputError where the
  /// deck says it. Collective.
  virtual StepPlan plan(int ranks, double length, const Communicator& communicator,
                        std::vector<std::string>& notes) const = 0;
  /// Model and data, by `use`. Collective; `communicator` must outlive the trainer.
  virtual std::unique_ptr<Trainer<float>> make_float(std::shared_ptr<const Tokenizer> tokenizer,
                                                     const Communicator& communicator,
                                                     DataUse use) const = 0;
  virtual std::unique_ptr<Trainer<double>> make_double(std::shared_ptr<const Tokenizer> tokenizer,
                                                       const Communicator& communicator,
                                                       DataUse use) const = 0;
  template <class T>
  std::unique_ptr<Trainer<T>> make(std::shared_ptr<const Tokenizer> tokenizer,
                                   const Communicator& communicator, DataUse use) const {
    if constexpr (std::is_same_v<T, double>)
      return make_double(std::move(tokenizer), communicator, use);
    else
      return make_float(std::move(tokenizer), communicator, use);
  }
};

/// How the program knows a task.
struct TaskInfo {
  std::string name;     ///< in run/task
  std::string summary;  ///< one line
  /// Its deck's keys, with the options of `router` as moe/OPTION, or of all routers for "".
  Schema (*schema)(const std::string& router);
  /// Checks what one key alone cannot say. InputError that points into the deck. What is no error
  /// goes to `notes`.
  std::unique_ptr<Task> (*read)(const Deck& deck, std::vector<std::string>& notes);
  /// Keys that list the files of training, and of evaluation.
  std::vector<std::string> train_keys, heldout_keys;
  /// Figures that evaluations during training may have in metrics.jsonl.
  std::vector<std::string> figures;
  /// An output of an encoder sees what comes after it, as it should: nobody asks whether it is
  /// causal.
  bool sees_both_sides = false;
};

const std::vector<TaskInfo>& task_registry();
/// InputError that lists the tasks when there is none of this name.
const TaskInfo& task_info(const std::string& name);
const TaskInfo& task_of(const Deck& deck);

/// Reads a deck with the keys of the task, and the defaults of the router, that it names. See
/// Deck::load and Deck::parse.
Deck load_deck(const std::string& path, const std::vector<std::string>& overrides = {});
Deck parse_deck(const std::string& text, const std::string& name,
                const std::vector<std::string>& overrides = {});

}  // namespace kokomoe
