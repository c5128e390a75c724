// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/language_model_deck.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/train/rehearsal.hpp"
#include "train/deck_keys.hpp"

namespace kokomoe {

Schema language_model_schema(const std::string& router) {
  Schema schema;
  detail::add_run_keys(schema, "language_model");
  schema.add(KeySpec::integer("model/d_model", 128, "channels").range(1, 65536))
      .add(KeySpec::integer("model/d_hidden", 512, "hidden channels of a feed-forward or expert")
               .range(1, 1048576))
      .add(KeySpec::integer("model/layers", 4, "transformer blocks").range(1, 255))
      .add(KeySpec::integer("model/heads", 4, "attention heads; divide d_model").range(1, 65535))
      .add(KeySpec::text("model/norm", "rms_norm", "of each branch's input")
               .choice({"rms_norm", "layer_norm"}))
      .add(KeySpec::text("model/positions", "rotary", "how positions enter")
               .choice({"rotary", "learned"}))
      .add(KeySpec::text("model/activation", "swiglu", "of feed-forwards and experts")
               .choice({"relu", "gelu", "swiglu"}))
      .add(KeySpec::boolean("model/bias", false, "biases in projections and experts"))
      .add(KeySpec::boolean("model/tied", true, "the embedding is the output projection too"))
      .add(KeySpec::real("model/dropout", 0, "embedding and residual branches").range(0, 0.99))
      .add(KeySpec::real("model/attention_dropout", 0, "attention probabilities").range(0, 0.99));
  detail::add_moe_keys(schema, router);
  detail::add_training_keys(schema);
  schema.add(KeySpec::list("data/train", {}, "text files").required())
      .add(KeySpec::list("data/heldout", {}, "text files for evaluation"));
  detail::add_tokenizer_keys(schema);
  schema
      .add(KeySpec::integer("data/sequence_length", 256, "tokens of a sequence").range(1, 16777215))
      .add(KeySpec::integer("data/eval_stride", 0,
                            "new tokens of an evaluation window; 0 = half of its length")
               .range(0, 16777215))
      .add(KeySpec::integer("data/eval_tokens", 0,
                            "held-out tokens that an evaluation scores at most, about; 0 = all")
               .range(0, 9007199254740992.0));
  return schema;
}

Deck load_language_model_deck(const std::string& path, const std::vector<std::string>& overrides) {
  const Deck deck = Deck::load(path, language_model_schema(), overrides);
  return Deck::load(path, language_model_schema(deck.text("moe/router")), overrides);
}

Deck parse_language_model_deck(const std::string& text, const std::string& name,
                               const std::vector<std::string>& overrides) {
  const Deck deck = Deck::parse(text, name, language_model_schema(), overrides);
  return Deck::parse(text, name, language_model_schema(deck.text("moe/router")), overrides);
}

LanguageModelConfig read_language_model_deck(const Deck& deck, std::vector<std::string>& notes) {
  LanguageModelConfig config;
  detail::read_training(deck, config);

  DecoderConfig& model = config.model;
  model.moe = detail::read_moe(deck, true, notes);
  model.layers = static_cast<int>(deck.integer("model/layers"));
  model.heads = static_cast<int>(deck.integer("model/heads"));
  model.norm = parse_norm(deck.text("model/norm"));
  model.positions = parse_positions(deck.text("model/positions"));
  model.bias = deck.boolean("model/bias");
  model.tied = deck.boolean("model/tied");
  model.dropout = deck.real("model/dropout");
  model.attention_dropout = deck.real("model/attention_dropout");
  model.moe_every = static_cast<int>(deck.integer("moe/every"));
  detail::check_heads(deck, model.heads, model.moe.d_model);
  detail::check_rotary(deck, model.positions, model.heads, model.moe.d_model);

  config.train_files = deck.list("data/train");
  config.heldout_files = deck.list("data/heldout");
  config.sequence_length = static_cast<int>(deck.integer("data/sequence_length"));
  config.eval_stride = static_cast<int>(deck.integer("data/eval_stride"));
  config.eval_tokens = deck.integer("data/eval_tokens");
  if (config.train_files.empty()) deck.refuse("data/train", "names no file");
  if (config.batch_tokens % config.sequence_length != 0)
    deck.refuse("train/batch_tokens", "must be a multiple of data/sequence_length = " +
                                          std::to_string(config.sequence_length));
  if (config.batch_tokens / config.sequence_length < config.accumulate)
    deck.refuse("train/accumulate",
                "more micro-batches than the " +
                    std::to_string(config.batch_tokens / config.sequence_length) +
                    " sequences of an update");
  const int group = model.moe.routing_group;
  const std::int64_t micro_batch = config.batch_tokens / config.accumulate;
  const bool long_groups = group > config.sequence_length;
  model.moe.group_over_ranks = model.moe_every != 0 && long_groups && looks_at_groups(model.moe);
  if (model.moe_every != 0 && group > 0 && group <= config.sequence_length &&
      config.sequence_length % group != 0)
    deck.refuse("moe/routing_group",
                "must divide data/sequence_length = " + std::to_string(config.sequence_length) +
                    " or be a multiple of it");
  if (model.moe_every != 0 && long_groups &&
      (group % config.sequence_length != 0 || config.batch_tokens % config.accumulate != 0 ||
       micro_batch % group != 0))
    deck.refuse("moe/routing_group",
                "groups of several sequences must be whole ones, and fill micro-batches of "
                "train/batch_tokens / train/accumulate = " +
                    std::to_string(micro_batch) + " tokens");
  if (config.eval_stride > config.sequence_length)
    deck.refuse("data/eval_stride",
                "exceeds data/sequence_length = " + std::to_string(config.sequence_length));
  model.max_length = config.sequence_length;
  if (config.samples > 0 && looks_ahead(config))
    deck.refuse("train/samples",
                "this model's outputs depend on later tokens, which nobody has written yet");
  if (config.layout_free)
    detail::check_layout_free(deck, model.moe, model.moe_every,
                              config.batch_tokens / config.sequence_length);
  config.tokenizer.training_files = config.train_files;
  return config;
}

}  // namespace kokomoe
