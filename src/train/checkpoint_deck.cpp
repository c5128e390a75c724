// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "train/checkpoint_deck.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/train/sentence_deck.hpp"
#include "kokomoe/train/task.hpp"
#include "kokomoe/train/training_run.hpp"

#include <algorithm>
#include <functional>

namespace kokomoe {

namespace {

/// Keys of how a step keeps and reads its numbers, in which precision: any model can be evaluated
/// either way.
bool chooses_storage(const std::string& key) {
  return key == "run/activations" || key == "moe/weights";
}

/// Keys of what makes the model and its draws.
bool makes_model(const std::string& key) {
  return key.starts_with("model/") || key.starts_with("moe/") || key.starts_with("run/");
}

/// Keys whose other value is another model, whether its tensors have the same shapes or not.
/// Dropout, losses, draws and the routers' options may change on the way.
bool makes_another_model(const std::string& key) {
  if (key == "model/dropout" || key == "model/attention_dropout" || key == "model/head_dropout" ||
      key == "model/from")
    return false;
  if (key.starts_with("model/") || key == "run/precision" || key == "run/task") return true;
  for (const char* name :
       {"moe/router", "moe/experts", "moe/k", "moe/every", "moe/shared_experts", "moe/output_gain"})
    if (key == name) return true;
  return false;
}

/// Evaluation has its tokenizer from the checkpoint.
bool makes_tokenizer(const std::string& key) {
  return key == "data/tokenizer" || key == "data/tokenizer_model" || key == "data/vocabulary" ||
         key == "data/vocabulary_lines";
}

/// What the value of one key alone does not say: how many outputs the head of a model of sentences
/// has. Other labels of the same number are other data for the same model.
bool changes_outputs(const std::string& key, const Deck& before, const Deck& deck) {
  return (key == "data/format" || key == "data/labels") && task_of(deck).name == "sentences" &&
         sentence_outputs(before) != sentence_outputs(deck);
}

struct Difference {
  std::string key, was, is;
  bool outputs;  ///< see changes_outputs
};

void for_each_difference(const Deck& deck, const detail::SavedRun& saved,
                         const std::function<void(const Difference&)>& work) {
  const Deck before = detail::deck_of(saved, {});
  if (task_of(before).name != task_of(deck).name)
    throw InputError(saved.folder + " holds run/task = " + before.toml("run/task") + ", not " +
                     deck.toml("run/task"));
  const Schema schema = task_of(deck).schema("");
  for (const KeySpec& key : schema.keys()) {
    const std::string was = before.toml(key.name), is = deck.toml(key.name);
    if (was != is) work({key.name, was, is, changes_outputs(key.name, before, deck)});
  }
}

}  // namespace

Deck deck_of_checkpoint(const std::string& step_folder, const std::vector<std::string>& overrides,
                        const Communicator& communicator) {
  return detail::deck_of(detail::read_saved_run(step_folder, communicator), overrides);
}

namespace detail {

SavedRun read_saved_run(const std::string& step_folder, const Communicator& communicator) {
  return {step_folder, read_manifest(step_folder, communicator)};
}

Deck deck_of(const SavedRun& saved, const std::vector<std::string>& overrides) {
  return parse_deck(saved.meta.deck, saved.folder + " (its deck)", overrides);
}

int fitting_expert_ranks(int wanted, int ranks) {
  if (wanted <= 0) return wanted;
  int fitting = std::min(wanted, ranks);
  while (ranks % fitting != 0) ++fitting;
  return fitting;
}

void fit_layout(const Deck& deck, int ranks, TrainConfig& config, std::vector<std::string>& notes) {
  const int wanted = config.parallel.expert_ranks;
  const int fitting = fitting_expert_ranks(wanted, ranks);
  if (fitting == wanted || deck.overridden("parallel/expert_ranks")) return;
  config.parallel.expert_ranks = fitting;
  notes.push_back("parallel/expert_ranks = " + std::to_string(wanted) + " does not divide the " +
                  std::to_string(ranks) + " rank(s): " +
                  (fitting == 1 ? "every rank holds all experts"
                                : "experts lie over " + std::to_string(fitting) + " of them"));
}

void compare_with_checkpoint(const Deck& deck, const SavedRun& saved,
                             std::vector<std::string>& notes) {
  const std::string& checkpoint = saved.folder;
  for_each_difference(deck, saved, [&](const Difference& found) {
    const auto& [key, was, is, outputs] = found;
    if ((makes_another_model(key) || outputs) && deck.overridden(key))
      deck.refuse(key, checkpoint + " was trained with " + was +
                           ": another value makes another model; train that in a folder of "
                           "its own");
    if ((makes_model(key) || outputs) && !deck.overridden(key))
      throw InputError("resuming would change " + key + " from " + was + " to " + is +
                       ": repeat the overrides of the first command, or leave -i out to go on "
                       "with the checkpoint's own deck");
    notes.push_back(key + " was " + was + ", is " + is);
  });
}

void refuse_other_encoder(const Deck& deck, const std::string& step_folder) {
  const Deck before = deck_of({step_folder, read_manifest(step_folder)}, {});
  const std::string& task = task_of(before).name;
  if (task != "electra" && task != "sentences")
    throw InputError(step_folder + " holds run/task = \"" + task +
                     "\": an encoder comes from \"electra\" or \"sentences\"");
  const Schema schema = task_of(deck).schema("");
  for (const KeySpec& key : schema.keys()) {
    if (!makes_another_model(key.name) || !before.known(key.name) || key.name == "run/task")
      continue;
    const std::string was = before.toml(key.name), is = deck.toml(key.name);
    if (was != is)
      throw InputError(step_folder + " was trained with " + key.name + " = " + was + ", not " + is);
  }
}

void refuse_other_model(const Deck& deck, const SavedRun& saved) {
  const std::string& checkpoint = saved.folder;
  for_each_difference(deck, saved, [&](const Difference& found) {
    const auto& [key, was, is, outputs] = found;
    if ((makes_model(key) && !chooses_storage(key)) || makes_tokenizer(key) || outputs)
      throw InputError(checkpoint + " was trained with " + key + " = " + was + ", not " + is +
                       ": leave this override out, or train a model with it");
  });
}

}  // namespace detail
}  // namespace kokomoe
