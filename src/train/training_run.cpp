// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/training_run.hpp"

#include "kokomoe/config.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/gemm.hpp"
#include "kokomoe/core/placement.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/parallel/agree.hpp"
#include "kokomoe/train/data_files.hpp"
#include "kokomoe/train/progress.hpp"
#include "kokomoe/train/rehearsal.hpp"
#include "kokomoe/train/run_control.hpp"
#include "kokomoe/train/run_folder.hpp"
#include "train/checkpoint_deck.hpp"
#include "train/training_loop.hpp"

#include <filesystem>
#include <optional>

namespace kokomoe {

namespace {

namespace fs = std::filesystem;

bool lies_in(const std::string& checkpoint, const std::string& run_folder) {
  std::error_code ignored;
  const fs::path checkpoints = fs::path(run_folder) / "checkpoints";
  return fs::equivalent(fs::path(checkpoint).parent_path(), checkpoints, ignored);
}

/// The step folder that the command goes on from, or "".
std::string find_checkpoint(const TrainingOptions& options, bool exists) {
  const std::string& folder = options.run_folder;
  if (exists && options.resume.empty())
    throw InputError("run folder \"" + folder +
                     "\" holds a run already: go on with -r last, or choose another with -d");
  std::string checkpoint;
  if (options.resume == "last") {
    if (has_checkpoint(folder))
      checkpoint = resolve_checkpoint(folder);
    else
      refuse_lost_checkpoints(folder);
  } else if (!options.resume.empty()) {
    checkpoint = resolve_checkpoint(options.resume);
  }
  if (exists && !checkpoint.empty() && !lies_in(checkpoint, folder))
    throw InputError("run folder \"" + folder + "\" holds another run than " + checkpoint +
                     ": choose another with -d");
  return checkpoint;
}

/// What is known before anything is made. Of the run folder it is what the root sees: other ranks
/// need not see it, and no two look at different moments.
struct Start {
  bool exists = false;  ///< on the root: the folder holds a run
  std::optional<detail::SavedRun> saved;
  std::vector<std::string> notes;  ///< on the root
};

Start look_at_folder(const TrainingOptions& options, const Communicator& communicator,
                     RunLock& lock) {
  const std::string& folder = options.run_folder;
  Start start;
  std::string checkpoint;
  run_on_root(communicator, [&] {
    // A folder that is there is locked before one looks at it; another is made once the deck is
    // right.
    std::error_code ignored;
    if (fs::is_directory(folder, ignored)) {
      lock.take(folder);
      start.notes = remove_old_requests(folder);
    }
    start.exists = is_run(folder);
    checkpoint = find_checkpoint(options, start.exists);
  });
  checkpoint = communicator.broadcast(checkpoint);
  if (!checkpoint.empty()) start.saved = detail::read_saved_run(checkpoint, communicator);
  return start;
}

}  // namespace

std::string start_banner(const Communicator& communicator) {
  std::string text = std::string("Kokomoe ") + KOKOMOE_VERSION + " on " + ExecutionSpace::name() +
                     " with " + std::to_string(ExecutionSpace().concurrency()) + " thread(s), " +
                     std::to_string(communicator.size()) + " rank(s)\nGEMM: " + gemm_library();
  const std::string warning = placement_warning();
  if (!warning.empty()) text += "\n" + warning;
  return text;
}

bool train(const TrainingOptions& options, const Communicator& communicator) {
  const std::string& folder = options.run_folder;
  if (folder.empty()) throw InputError("the run folder -d has an empty name");
  RunLock lock;
  const Start start = look_at_folder(options, communicator, lock);
  if (options.deck.empty() && !start.saved) throw InputError("no deck: name one with -i");
  const Deck deck = options.deck.empty() ? detail::deck_of(*start.saved, options.overrides)
                                         : load_deck(options.deck, options.overrides);
  std::vector<std::string> notes = start.notes;
  const std::unique_ptr<Task> task = task_of(deck).read(deck, notes);
  TrainConfig& config = task->config();
  if (start.saved) {
    detail::compare_with_checkpoint(deck, *start.saved, notes);
    const std::int64_t step = start.saved->meta.step;
    if (step > config.steps)
      throw InputError("train/steps = " + std::to_string(config.steps) +
                       " lies before the checkpoint's step " + std::to_string(step));
  }
  if (options.deck.empty()) detail::fit_layout(deck, communicator.size(), config, notes);
  note_schedule(config, notes);
  note_idle_settings(deck, notes);
  const DataUse use = start.saved ? DataUse::resuming : DataUse::training;
  require_data_files(deck, use, options.deck.empty(), communicator);
  run_on_root(communicator, [&] { task->rehearse(deck, use); });
  run_on_root(communicator, [&] {
    lock.take(folder);
    if (!start.exists && is_run(folder))
      throw InputError("run folder \"" + folder + "\" holds a run that began just now");
  });
  if (!lock.note().empty()) notes.push_back(lock.note());
  Progress progress(communicator.is_root() && !options.quiet, config.steps);
  progress.say(start_banner(communicator));
  progress.say("Experts: " + (config.layout_free ? std::string("fixed tiles of rows")
                                                 : to_string(task->moe().kernels)));
  if (task->moe().round_weights) progress.say("Weights: experts read copies in bfloat16");
  if (config.round_kept) progress.say("Activations: kept as bfloat16 for backward");
  for (const std::string& note : notes) progress.say("note: " + note);
  if (!start.saved && options.resume == "last")
    progress.say("note: \"" + folder + "\" holds no checkpoint: starting fresh");
  communicator.barrier();
  if (config.double_precision)
    return detail::TrainingLoop<double>(options, deck, *task, communicator, start.saved).train();
  return detail::TrainingLoop<float>(options, deck, *task, communicator, start.saved).train();
}

template <class T>
Loaded<Trainer<T>> load_trainer(const std::string& run_or_step,
                                const std::vector<std::string>& overrides,
                                const Communicator& communicator, DataUse use) {
  const std::string folder = resolve_checkpoint(run_or_step, communicator);
  const detail::SavedRun saved = detail::read_saved_run(folder, communicator);
  Loaded<Trainer<T>> loaded{detail::deck_of(saved, overrides), nullptr, nullptr, false, 0, {}};
  if (loaded.deck.text("moe/weights") == "bfloat16" && !loaded.deck.overridden("moe/weights") &&
      !by_blocks(parse_expert_kernels(loaded.deck.text("parallel/expert_kernels")), false)) {
    std::vector<std::string> whole = overrides;
    whole.emplace_back("moe/weights=full");
    loaded.deck = detail::deck_of(saved, whole);
    loaded.notes.emplace_back(
        "experts' weights are read as they are: bfloat16, with which this model was trained, is "
        "read by blocks of rows alone");
  }
  detail::refuse_other_model(loaded.deck, saved);
  std::vector<std::string> notes;
  const std::unique_ptr<Task> task = task_of(loaded.deck).read(loaded.deck, notes);
  detail::fit_layout(loaded.deck, communicator.size(), task->config(), loaded.notes);
  loaded.looks_ahead = task->looks_ahead();
  if (loaded.looks_ahead)
    loaded.notes.push_back(
        "this model's outputs depend on later tokens: its losses are not those "
        "of a causal model");
  loaded.tokenizer = detail::tokenizer_of(saved.meta);
  loaded.model = task->make<T>(loaded.tokenizer, communicator, use);
  loaded.step = load_checkpoint<T>(folder, loaded.model->store(), communicator, false).step;
  return loaded;
}

namespace {

/// As the task's own kind of trainer.
template <class Model, class T>
Loaded<Model> as(Loaded<Trainer<T>> loaded, const char* what) {
  Model* const model = dynamic_cast<Model*>(loaded.model.get());
  if (model == nullptr)
    throw InputError(loaded.deck.name() + ": run/task = " + loaded.deck.toml("run/task") +
                     ", but this wants a " + what);
  loaded.model.release();
  return {std::move(loaded.deck),
          std::move(loaded.tokenizer),
          std::unique_ptr<Model>(model),
          loaded.looks_ahead,
          loaded.step,
          std::move(loaded.notes)};
}

}  // namespace

template <class T>
LoadedModel<T> load_language_model(const std::string& run_or_step,
                                   const std::vector<std::string>& overrides,
                                   const Communicator& communicator) {
  return as<LanguageModel<T>>(load_trainer<T>(run_or_step, overrides, communicator, DataUse::none),
                              "language model");
}

template <class T>
Loaded<Translation<T>> load_translation(const std::string& run_or_step,
                                        const std::vector<std::string>& overrides,
                                        const Communicator& communicator) {
  return as<Translation<T>>(load_trainer<T>(run_or_step, overrides, communicator, DataUse::none),
                            "translation model");
}

template <class T>
Loaded<SentenceTrainer<T>> load_sentences(const std::string& run_or_step,
                                          const std::vector<std::string>& overrides,
                                          const Communicator& communicator) {
  return as<SentenceTrainer<T>>(
      load_trainer<T>(run_or_step, overrides, communicator, DataUse::none), "model of sentences");
}

template Loaded<Trainer<float>> load_trainer<float>(const std::string&,
                                                    const std::vector<std::string>&,
                                                    const Communicator&, DataUse);
template Loaded<Trainer<double>> load_trainer<double>(const std::string&,
                                                      const std::vector<std::string>&,
                                                      const Communicator&, DataUse);
template LoadedModel<float> load_language_model<float>(const std::string&,
                                                       const std::vector<std::string>&,
                                                       const Communicator&);
template LoadedModel<double> load_language_model<double>(const std::string&,
                                                         const std::vector<std::string>&,
                                                         const Communicator&);
template Loaded<Translation<float>> load_translation<float>(const std::string&,
                                                            const std::vector<std::string>&,
                                                            const Communicator&);
template Loaded<Translation<double>> load_translation<double>(const std::string&,
                                                              const std::vector<std::string>&,
                                                              const Communicator&);
template Loaded<SentenceTrainer<float>> load_sentences<float>(const std::string&,
                                                              const std::vector<std::string>&,
                                                              const Communicator&);
template Loaded<SentenceTrainer<double>> load_sentences<double>(const std::string&,
                                                                const std::vector<std::string>&,
                                                                const Communicator&);

}  // namespace kokomoe
