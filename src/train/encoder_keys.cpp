// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "train/encoder_keys.hpp"

#include "kokomoe/core/error.hpp"
#include "train/deck_keys.hpp"

namespace kokomoe::detail {

void add_encoder_keys(Schema& schema) {
  schema.add(KeySpec::integer("model/d_model", 128, "channels").range(1, 65536))
      .add(KeySpec::integer("model/d_hidden", 512, "hidden channels of a feed-forward or expert")
               .range(1, 1048576))
      .add(KeySpec::integer("model/layers", 4, "transformer blocks").range(1, 127))
      .add(KeySpec::integer("model/heads", 4, "attention heads; divide d_model").range(1, 65535))
      .add(KeySpec::integer("model/max_length", 128, "positions: tokens of a sequence at most")
               .range(5, 16777215))
      .add(KeySpec::text("model/positions", "learned", "how positions enter")
               .choice({"rotary", "learned"}))
      .add(KeySpec::text("model/norm", "layer_norm", "of each branch")
               .choice({"rms_norm", "layer_norm"}))
      .add(KeySpec::boolean("model/post_norm", true, "norms after each sum, as in BERT"))
      .add(KeySpec::text("model/activation", "gelu", "of feed-forwards and experts")
               .choice({"relu", "gelu", "swiglu"}))
      .add(KeySpec::boolean("model/bias", true, "biases in projections and experts"))
      .add(KeySpec::real("model/dropout", 0.1, "embedding and residual branches").range(0, 0.99))
      .add(KeySpec::real("model/attention_dropout", 0.1, "attention probabilities").range(0, 0.99));
}

EncoderConfig read_encoder(const Deck& deck, std::vector<std::string>& notes) {
  EncoderConfig model;
  model.moe = read_moe(deck, false, notes);
  model.max_length = static_cast<int>(deck.integer("model/max_length"));
  model.segments = 2;
  model.layers = static_cast<int>(deck.integer("model/layers"));
  model.heads = static_cast<int>(deck.integer("model/heads"));
  model.positions = parse_positions(deck.text("model/positions"));
  model.norm = parse_norm(deck.text("model/norm"));
  model.post_norm = deck.boolean("model/post_norm");
  model.bias = deck.boolean("model/bias");
  model.dropout = deck.real("model/dropout");
  model.attention_dropout = deck.real("model/attention_dropout");
  model.moe_every = static_cast<int>(deck.integer("moe/every"));
  check_heads(deck, model.heads, model.moe.d_model);
  check_rotary(deck, model.positions, model.heads, model.moe.d_model);
  if (model.moe_every != 0 && model.moe.routing_group != 0)
    deck.refuse("moe/routing_group",
                "sentences have no common length to cut into groups: leave it at 0, each sequence");
  return model;
}

void refuse_for_encoders(const Deck& deck, const TrainConfig& config) {
  if (config.layout_free)
    deck.refuse("parallel/deterministic",
                "\"layout\" works with run/task = \"language_model\" alone");
  if (config.samples > 0)
    deck.refuse("train/samples", "run/task = " + deck.toml("run/task") + " writes no text");
  if (config.label_smoothing > 0)
    deck.refuse("train/label_smoothing",
                "run/task = " + deck.toml("run/task") + " has losses without it: leave it at 0");
}

}  // namespace kokomoe::detail
