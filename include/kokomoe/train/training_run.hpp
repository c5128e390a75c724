// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/io/deck.hpp"
#include "kokomoe/parallel/communicator.hpp"
#include "kokomoe/train/language_model.hpp"
#include "kokomoe/train/sentence_trainer.hpp"
#include "kokomoe/train/task.hpp"
#include "kokomoe/train/translation.hpp"

#include <memory>
#include <string>
#include <vector>

namespace kokomoe {

struct TrainingOptions {
  std::string deck;  ///< file; may be empty with `resume`
  std::string run_folder;
  std::string resume;                  ///< "", "last", or a step folder
  std::vector<std::string> overrides;  ///< "section/key=value"
  double wall_seconds = 0;             ///< 0 = no limit
  double watchdog_seconds = 0;         ///< without progress that end the run; 0 = any time
  bool quiet = false;                  ///< prints nothing
  bool changed_data = false;           ///< resume though the training text is another
};

/// Runs a deck in its run folder: effective.toml, metrics.jsonl, checkpoints/, and a file `lock`
/// that keeps a second process out. Collective.
/// Returns true when the deck's steps are done, false when a signal, the wall limit or a `stop`
/// file ended it early, after saving. Throws InputError before any work when deck, data, folder or
/// checkpoint are wrong.
bool train(const TrainingOptions& options, const Communicator& communicator);

/// A trained model read from a run or step folder, for evaluation and use.
template <class Model>
struct Loaded {
  Deck deck;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::unique_ptr<Model> model;
  bool looks_ahead = false;  ///< see Task
  std::int64_t step = 0;
  std::vector<std::string> notes;  ///< what its user should know, for the root to print
};

template <class T>
using LoadedModel = Loaded<LanguageModel<T>>;

/// `overrides` change the deck that the checkpoint was written with, but not its model or
/// tokenizer: InputError that names key and both values. `use`: evaluation or none. Only the root
/// reads files. Collective.
template <class T>
Loaded<Trainer<T>> load_trainer(const std::string& run_or_step,
                                const std::vector<std::string>& overrides,
                                const Communicator& communicator, DataUse use);

/// The same without data; InputError when it is a model of another task.
template <class T>
LoadedModel<T> load_language_model(const std::string& run_or_step,
                                   const std::vector<std::string>& overrides,
                                   const Communicator& communicator);
template <class T>
Loaded<Translation<T>> load_translation(const std::string& run_or_step,
                                        const std::vector<std::string>& overrides,
                                        const Communicator& communicator);

template <class T>
Loaded<SentenceTrainer<T>> load_sentences(const std::string& run_or_step,
                                          const std::vector<std::string>& overrides,
                                          const Communicator& communicator);

/// The deck inside a checkpoint, which only the root reads. Collective.
Deck deck_of_checkpoint(const std::string& step_folder, const std::vector<std::string>& overrides,
                        const Communicator& communicator);

/// One block of text: versions, execution space, threads, ranks, the BLAS that GEMMs reach.
std::string start_banner(const Communicator& communicator);

}  // namespace kokomoe
