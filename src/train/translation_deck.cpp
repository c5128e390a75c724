// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/translation_deck.hpp"

#include "kokomoe/core/error.hpp"
#include "train/deck_keys.hpp"

namespace kokomoe {

Schema translation_schema(const std::string& router) {
  Schema schema;
  detail::add_run_keys(schema, "translation");
  schema.add(KeySpec::integer("model/d_model", 128, "channels").range(1, 65536))
      .add(KeySpec::integer("model/d_hidden", 512, "hidden channels of a feed-forward or expert")
               .range(1, 1048576))
      .add(KeySpec::integer("model/layers", 3, "blocks of the encoder").range(1, 127))
      .add(KeySpec::integer("model/decoder_layers", 0, "of the decoder; 0 = as many").range(0, 127))
      .add(KeySpec::integer("model/heads", 4, "attention heads; divide d_model").range(1, 65535))
      .add(KeySpec::text("model/norm", "layer_norm", "of each branch")
               .choice({"rms_norm", "layer_norm"}))
      .add(KeySpec::boolean(
          "model/post_norm", false,
          "norms after each sum, as in the first Transformer, not before branches"))
      .add(KeySpec::text("model/activation", "relu", "of feed-forwards and experts")
               .choice({"relu", "gelu", "swiglu"}))
      .add(KeySpec::boolean("model/bias", true, "biases in projections and experts"))
      .add(KeySpec::real("model/dropout", 0.1, "embeddings and residual branches").range(0, 0.99))
      .add(KeySpec::real("model/attention_dropout", 0, "attention probabilities").range(0, 0.99));
  detail::add_moe_keys(schema, router, 2);
  detail::TrainingDefaults defaults;
  defaults.schedule = "inverse_sqrt";
  defaults.weight_decay = 0;
  defaults.batch_tokens = "tokens of either side of an update at most, over all ranks";
  detail::add_training_keys(schema, defaults);
  const auto files = [&](const char* key, const char* doc, bool required) {
    KeySpec spec = KeySpec::list(key, {}, doc);
    spec.must_be_given = required;
    schema.add(std::move(spec));
  };
  files("data/train_source", "text files, a sentence a line", true);
  files("data/train_target", "their translations, line by line", true);
  files("data/heldout_source", "the same for evaluation", false);
  files("data/heldout_target", "their translations", false);
  detail::add_tokenizer_keys(schema, "sentencepiece");
  schema.add(KeySpec::integer("data/max_length", 256,
                              "tokens of a sentence, its end included; longer pairs are left out")
                 .range(2, 16777215));
  schema
      .add(KeySpec::integer("search/beam", 4, "hypotheses of a sentence; 1 = greedy").range(1, 256))
      .add(KeySpec::real("search/length_penalty", 0.6,
                         "a: log-probabilities of n tokens are divided by ((5 + n) / 6)^a")
               .range(0, 10))
      .add(KeySpec::integer("search/extra_length", 50,
                            "tokens that a translation may have more than its source")
               .range(0, 16777215));
  return schema;
}

TranslationConfig read_translation_deck(const Deck& deck, std::vector<std::string>& notes) {
  TranslationConfig config;
  detail::read_training(deck, config);

  EncoderDecoderConfig& model = config.model;
  model.moe = detail::read_moe(deck, true, notes);
  model.encoder_layers = static_cast<int>(deck.integer("model/layers"));
  model.decoder_layers = static_cast<int>(deck.integer("model/decoder_layers"));
  if (model.decoder_layers == 0) model.decoder_layers = model.encoder_layers;
  model.heads = static_cast<int>(deck.integer("model/heads"));
  model.norm = parse_norm(deck.text("model/norm"));
  model.post_norm = deck.boolean("model/post_norm");
  model.bias = deck.boolean("model/bias");
  model.dropout = deck.real("model/dropout");
  model.attention_dropout = deck.real("model/attention_dropout");
  model.moe_every = static_cast<int>(deck.integer("moe/every"));
  model.max_length = static_cast<int>(deck.integer("data/max_length"));
  detail::check_heads(deck, model.heads, model.moe.d_model);
  if (model.moe.d_model % 2 != 0)
    deck.refuse("model/d_model", "sinusoidal positions need an even number of channels, not " +
                                     std::to_string(model.moe.d_model));
  if (model.moe_every != 0 && model.moe.routing_group != 0)
    deck.refuse("moe/routing_group",
                "sentences have no common length to cut into groups: leave it at 0, each sentence");

  if (config.samples > 0 && model.moe_every != 0 && looks_at_groups(model.moe))
    deck.refuse("train/samples",
                "this model's outputs depend on later tokens, which nobody has written yet");

  config.beam = static_cast<int>(deck.integer("search/beam"));
  config.length_penalty = deck.real("search/length_penalty");
  config.extra_length = static_cast<int>(deck.integer("search/extra_length"));

  config.train_source = deck.list("data/train_source");
  config.train_target = deck.list("data/train_target");
  config.heldout_source = deck.list("data/heldout_source");
  config.heldout_target = deck.list("data/heldout_target");
  const auto require_both = [&](const std::string& part, const std::vector<std::string>& source,
                                const std::vector<std::string>& target) {
    if (source.empty() != target.empty())
      deck.refuse("data/" + part + (source.empty() ? "_source" : "_target"), "names no file");
    const auto files = [](std::size_t count) { return std::to_string(count) + " file(s)"; };
    if (source.size() != target.size())
      deck.refuse("data/" + part + "_target",
                  "names " + files(target.size()) + ", data/" + part + "_source " +
                      files(source.size()) + ": file n of the one belongs to file n of the other");
  };
  if (config.train_source.empty()) deck.refuse("data/train_source", "names no file");
  require_both("train", config.train_source, config.train_target);
  require_both("heldout", config.heldout_source, config.heldout_target);
  if (config.batch_tokens < model.max_length)
    deck.refuse("train/batch_tokens", "does not hold a sentence of data/max_length = " +
                                          std::to_string(model.max_length) + " tokens");
  if (config.layout_free)
    deck.refuse("parallel/deterministic",
                "\"layout\" works with run/task = \"language_model\" alone: attention to another "
                "sentence has no fixed order of sums yet");

  config.tokenizer.training_form = TextForm::lines;
  config.tokenizer.training_files = config.train_source;
  config.tokenizer.training_files.insert(config.tokenizer.training_files.end(),
                                         config.train_target.begin(), config.train_target.end());
  return config;
}

}  // namespace kokomoe
