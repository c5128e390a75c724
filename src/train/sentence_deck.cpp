// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/sentence_deck.hpp"

#include "kokomoe/core/error.hpp"
#include "train/deck_keys.hpp"
#include "train/encoder_keys.hpp"
#include "train/tasks.hpp"

#include <algorithm>
#include <set>

namespace kokomoe {

Schema sentence_schema(const std::string& router) {
  Schema schema;
  detail::add_run_keys(schema, "sentences");
  detail::add_encoder_keys(schema);
  schema
      .add(KeySpec::text("model/from", "",
                         "run or checkpoint whose encoder and tokenizer it begins with; empty = "
                         "random"))
      .add(KeySpec::real("model/head_dropout", 0.1, "before the last layer").range(0, 0.99));
  detail::add_moe_keys(schema, router, 2);
  detail::TrainingDefaults defaults;
  defaults.schedule = "linear";
  defaults.weight_decay = 0;
  defaults.beta2 = 0.999;
  defaults.batch_tokens = nullptr;
  detail::add_training_keys(schema, defaults);
  schema.add(KeySpec::real("optimizer/layer_decay", 1,
                           "a layer's learning rate over that of the layer above, below the head; "
                           "the embedding comes last")
                 .range(0.01, 1));
  schema.add(KeySpec::integer("train/batch_sentences", 32, "sentences, or pairs, of an update")
                 .range(1, 16777215));
  schema
      .add(KeySpec::list("data/train", {}, "tables: a row a line, fields between tabs").required())
      .add(KeySpec::list("data/heldout", {}, "the same for evaluation"));
  std::vector<std::string> formats{"columns"};
  for (const SentenceFormat& format : glue_formats()) formats.push_back(format.name);
  schema
      .add(KeySpec::text("data/format", "columns", "columns by their names, or as a task of GLUE")
               .choice(formats))
      .add(KeySpec::text("data/first", "sentence", "column of the sentence, or of the first one"))
      .add(KeySpec::text("data/second", "", "of the second one; empty = there is none"))
      .add(KeySpec::text("data/label", "label", "of the label"))
      .add(KeySpec::list("data/labels", {}, "classes in order; none = labels are numbers"))
      .add(KeySpec::boolean("data/header", true,
                            "the first line names the columns, which else are \"1\", \"2\", ..."));
  detail::add_tokenizer_keys(schema, "sentencepiece");
  schema.add(KeySpec::integer("data/max_length", 0,
                              "tokens of a sequence, longer sentences are cut; 0 = "
                              "model/max_length")
                 .range(0, 16777215));
  return schema;
}

namespace {

SentenceFormat read_format(const Deck& deck, const Deck& defaults) {
  const std::string& name = deck.text("data/format");
  for (const SentenceFormat& format : glue_formats()) {
    if (format.name != name) continue;
    for (const char* key :
         {"data/first", "data/second", "data/label", "data/labels", "data/header"})
      if (detail::asked(deck, defaults, key))
        deck.refuse(key, "data/format = \"" + name + "\" says it: leave one of them out");
    return format;
  }
  SentenceFormat format{name,
                        deck.boolean("data/header"),
                        deck.text("data/first"),
                        deck.text("data/second"),
                        deck.text("data/label"),
                        deck.list("data/labels")};
  if (format.first.empty()) deck.refuse("data/first", "names no column");
  if (format.label.empty()) deck.refuse("data/label", "names no column");
  if (format.labels.size() == 1) deck.refuse("data/labels", "one class is nothing to tell");
  std::set<std::string> seen;
  for (const std::string& label : format.labels)
    if (!seen.insert(label).second)
      deck.refuse("data/labels", "\"" + label + "\" stands there twice");
  return format;
}

}  // namespace

int sentence_outputs(const Deck& deck) {
  for (const SentenceFormat& format : glue_formats())
    if (format.name == deck.text("data/format"))
      return std::max(1, static_cast<int>(format.labels.size()));
  return std::max(1, static_cast<int>(deck.list("data/labels").size()));
}

SentenceTaskConfig read_sentence_deck(const Deck& deck, std::vector<std::string>& notes) {
  SentenceTaskConfig config;
  detail::read_training(deck, config);
  config.model.encoder = detail::read_encoder(deck, notes);
  config.model.head_dropout = deck.real("model/head_dropout");
  const Deck defaults = detail::defaults_of(deck);
  config.format = read_format(deck, defaults);
  config.model.classes = sentence_outputs(deck);
  config.train_files = deck.list("data/train");
  config.heldout_files = deck.list("data/heldout");
  config.sentences = static_cast<int>(deck.integer("train/batch_sentences"));
  config.max_length = static_cast<int>(deck.integer("data/max_length"));
  config.from = deck.text("model/from");
  config.layer_decay = deck.real("optimizer/layer_decay");
  const int longest = config.model.encoder.max_length;
  if (config.max_length == 0) config.max_length = longest;
  if (config.train_files.empty()) deck.refuse("data/train", "names no file");
  if (config.max_length > longest)
    deck.refuse("data/max_length", "exceeds model/max_length = " + std::to_string(longest));
  const int least = config.format.second.empty() ? 3 : 5;
  if (config.max_length < least)
    deck.refuse("data/max_length", "holds no word: " + std::to_string(least) + " at least");
  if (config.sentences < config.accumulate)
    deck.refuse("train/accumulate", "more micro-batches than the " +
                                        std::to_string(config.sentences) +
                                        " sentences of an update");
  if (!config.from.empty())
    for (const char* key :
         {"data/tokenizer", "data/tokenizer_model", "data/vocabulary", "data/vocabulary_lines"})
      if (detail::asked(deck, defaults, key))
        deck.refuse(key, "the tokenizer is that of model/from: leave one of them out");
  detail::refuse_for_encoders(deck, config);
  config.batch_tokens = static_cast<std::int64_t>(config.sentences) * config.max_length;
  config.tokenizer.training_files = config.train_files;
  return config;
}

}  // namespace kokomoe
