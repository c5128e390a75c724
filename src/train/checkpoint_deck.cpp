// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "train/checkpoint_deck.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/train/language_model_deck.hpp"
#include "kokomoe/train/training_run.hpp"

#include <functional>

namespace kokomoe {

namespace {

/// Keys of what makes the model and its draws.
bool makes_model(const std::string& key) {
  return key.starts_with("model/") || key.starts_with("moe/") || key.starts_with("run/");
}

/// Keys whose other value is another model, whether its tensors have the same shapes or not.
/// Dropout, losses, draws and the routers' options may change on the way.
bool makes_another_model(const std::string& key) {
  if (key == "model/dropout" || key == "model/attention_dropout") return false;
  if (key.starts_with("model/") || key == "run/precision" || key == "run/task") return true;
  for (const char* name : {"moe/router", "moe/experts", "moe/k", "moe/every", "moe/shared_experts",
                           "moe/output_gain"})
    if (key == name) return true;
  return false;
}

/// Evaluation has its tokenizer from the checkpoint.
bool makes_tokenizer(const std::string& key) {
  return key == "data/tokenizer" || key == "data/tokenizer_model" || key == "data/vocabulary";
}

using Difference =
    std::function<void(const std::string& key, const std::string& was, const std::string& is)>;

void for_each_difference(const Deck& deck, const std::string& checkpoint, const Difference& work) {
  const Deck before = deck_of_checkpoint(checkpoint, {});
  const Schema schema = language_model_schema();
  for (const KeySpec& key : schema.keys()) {
    const std::string was = before.toml(key.name), is = deck.toml(key.name);
    if (was != is) work(key.name, was, is);
  }
}

}  // namespace

Deck deck_of_checkpoint(const std::string& step_folder, const std::vector<std::string>& overrides) {
  return parse_language_model_deck(read_manifest(step_folder).deck, step_folder + " (its deck)",
                                   overrides);
}

namespace detail {

void compare_with_checkpoint(const Deck& deck, const std::string& checkpoint,
                             std::vector<std::string>& notes) {
  for_each_difference(
      deck, checkpoint, [&](const std::string& key, const std::string& was, const std::string& is) {
        if (makes_another_model(key) && deck.overridden(key))
          deck.refuse(key, checkpoint + " was trained with " + was +
                               ": another value makes another model; train that in a folder of "
                               "its own");
        if (makes_model(key) && !deck.overridden(key))
          throw InputError(
              "resuming would change " + key + " from " + was + " to " + is +
              ": repeat the overrides of the first command, or leave -i out to go on with "
              "the checkpoint's own deck");
        notes.push_back(key + " was " + was + ", is " + is);
      });
}

void refuse_other_model(const Deck& deck, const std::string& checkpoint) {
  for_each_difference(
      deck, checkpoint, [&](const std::string& key, const std::string& was, const std::string& is) {
        if (makes_model(key) || makes_tokenizer(key))
          throw InputError(checkpoint + " was trained with " + key + " = " + was + ", not " + is +
                           ": leave this override out, or train a model with it");
      });
}

}  // namespace detail
}  // namespace kokomoe
