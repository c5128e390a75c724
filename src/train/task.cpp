// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/task.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/train/electra_deck.hpp"
#include "kokomoe/train/language_model_deck.hpp"
#include "kokomoe/train/sentence_deck.hpp"
#include "kokomoe/train/translation_deck.hpp"
#include "train/tasks.hpp"

namespace kokomoe {

const std::vector<TaskInfo>& task_registry() {
  static const std::vector<TaskInfo> tasks = {
      {"language_model",
       "a decoder that predicts each token from those before it",
       language_model_schema,
       detail::read_language_model_task,
       {"data/train"},
       {"data/heldout"},
       {"eval_loss", "bits_per_byte", "perplexity", "accuracy"}},
      {"translation",
       "an encoder and a decoder that writes what a sentence means in another language",
       translation_schema,
       detail::read_translation_task,
       {"data/train_source", "data/train_target"},
       {"data/heldout_source", "data/heldout_target"},
       {"eval_loss", "perplexity", "accuracy"}},
      {"electra",
       "an encoder that learns from text to tell which words were replaced",
       electra_schema,
       detail::read_electra_task,
       {"data/train"},
       {"data/heldout"},
       {"eval_loss", "generator_loss", "generator_accuracy", "discriminator_loss",
        "discriminator_accuracy", "replaced", "found"},
       true},
      {"sentences",
       "an encoder that tells a class or a number of sentences, or pairs of them",
       sentence_schema,
       detail::read_sentence_task,
       {"data/train"},
       {"data/heldout"},
       {"eval_loss", "accuracy", "matthews", "f1", "pearson", "spearman"},
       true}};
  return tasks;
}

const TaskInfo& task_info(const std::string& name) {
  std::string names;
  for (const TaskInfo& task : task_registry()) {
    if (task.name == name) return task;
    names += (names.empty() ? "" : ", ") + task.name;
  }
  throw InputError("no task \"" + name + "\": there are " + names);
}

const TaskInfo& task_of(const Deck& deck) {
  return task_info(deck.text("run/task"));
}

std::shared_ptr<const Tokenizer> Task::make_tokenizer(const Communicator& communicator,
                                                      std::vector<std::string>& notes) const {
  return kokomoe::make_tokenizer(config().tokenizer, communicator, &notes);
}

namespace {

/// Every key of every task: enough to see which task a deck is for.
Schema any_task() {
  Schema all;
  for (const TaskInfo& task : task_registry()) {
    const Schema schema = task.schema("");
    for (KeySpec key : schema.keys()) {
      key.must_be_given = false;
      all.add(std::move(key));
    }
  }
  return all;
}

Schema schema_of(const Deck& peeked) {
  return task_of(peeked).schema(peeked.text("moe/router"));
}

}  // namespace

Deck detail::defaults_of(const Deck& deck) {
  const TaskInfo& task = task_of(deck);
  std::string required = "[data]\n";
  for (const std::string& key : task.train_keys)
    required += key.substr(key.find('/') + 1) + " = []\n";
  return Deck::parse(required, "defaults", task.schema(deck.text("moe/router")));
}

Deck load_deck(const std::string& path, const std::vector<std::string>& overrides) {
  return Deck::load(path, schema_of(Deck::load(path, any_task(), overrides)), overrides);
}

Deck parse_deck(const std::string& text, const std::string& name,
                const std::vector<std::string>& overrides) {
  return Deck::parse(text, name, schema_of(Deck::parse(text, name, any_task(), overrides)),
                     overrides);
}

}  // namespace kokomoe
