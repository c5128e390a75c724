// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/electra_deck.hpp"

#include "kokomoe/core/error.hpp"
#include "train/deck_keys.hpp"
#include "train/encoder_keys.hpp"

namespace kokomoe {

Schema electra_schema(const std::string& router) {
  Schema schema;
  detail::add_run_keys(schema, "electra");
  detail::add_encoder_keys(schema);
  detail::add_moe_keys(schema, router, 2);
  schema
      .add(KeySpec::real("electra/generator_width", 1.0 / 3,
                         "the generator's d_model, d_hidden and heads as a share of model/*")
               .range(1e-3, 1))
      .add(KeySpec::integer("electra/generator_layers", 0, "0 = as many as model/layers")
               .range(0, 127))
      .add(KeySpec::real("electra/discriminator_weight", 50, "of its loss").range(0, 1e6))
      .add(KeySpec::real("electra/temperature", 1, "of the generator where it is drawn from")
               .range(1e-3, 1e3))
      .add(KeySpec::real("electra/mask_rate", 0.15, "share of tokens that are hidden")
               .range(1e-6, 1));
  detail::TrainingDefaults defaults;
  defaults.schedule = "linear";
  defaults.weight_decay = 0.01;
  defaults.beta2 = 0.999;
  detail::add_training_keys(schema, defaults);
  schema.add(KeySpec::list("data/train", {}, "text files").required())
      .add(KeySpec::list("data/heldout", {}, "text files for evaluation"));
  detail::add_tokenizer_keys(schema, "sentencepiece");
  schema
      .add(KeySpec::integer("data/sequence_length", 128, "tokens of a sequence").range(3, 16777215))
      .add(KeySpec::integer("data/eval_tokens", 0,
                            "held-out tokens that an evaluation reads at most, about; 0 = all")
               .range(0, 9007199254740992.0));
  return schema;
}

ElectraTaskConfig read_electra_deck(const Deck& deck, std::vector<std::string>& notes) {
  ElectraTaskConfig config;
  detail::read_training(deck, config);
  config.model.discriminator = detail::read_encoder(deck, notes);
  config.model.generator_width = deck.real("electra/generator_width");
  config.model.generator_layers = static_cast<int>(deck.integer("electra/generator_layers"));
  config.model.discriminator_weight = deck.real("electra/discriminator_weight");
  config.model.temperature = deck.real("electra/temperature");
  config.mask_rate = deck.real("electra/mask_rate");
  config.train_files = deck.list("data/train");
  config.heldout_files = deck.list("data/heldout");
  config.sequence_length = static_cast<int>(deck.integer("data/sequence_length"));
  config.eval_tokens = deck.integer("data/eval_tokens");
  if (config.train_files.empty()) deck.refuse("data/train", "names no file");
  if (config.sequence_length > config.model.discriminator.max_length)
    deck.refuse("data/sequence_length",
                "exceeds model/max_length = " + deck.toml("model/max_length"));
  if (config.batch_tokens % config.sequence_length != 0)
    deck.refuse("train/batch_tokens", "must be a multiple of data/sequence_length = " +
                                          std::to_string(config.sequence_length));
  if (config.batch_tokens / config.sequence_length < config.accumulate)
    deck.refuse("train/accumulate",
                "more micro-batches than the " +
                    std::to_string(config.batch_tokens / config.sequence_length) +
                    " sequences of an update");
  detail::refuse_for_encoders(deck, config);
  config.tokenizer.training_files = config.train_files;
  return config;
}

}  // namespace kokomoe
