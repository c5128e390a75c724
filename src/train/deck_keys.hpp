// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/io/deck.hpp"
#include "kokomoe/moe/moe_config.hpp"
#include "kokomoe/nn/rotary.hpp"
#include "kokomoe/train/train_config.hpp"

#include <string>
#include <vector>

namespace kokomoe::detail {

// Keys that decks of several tasks have, in the order in which they stand in a deck.

/// run/*; the task is `task`.
void add_run_keys(Schema& schema, const std::string& task);
/// moe/*, with `router`'s defaults and its options; "" = those of all routers. `every`: the
/// default.
void add_moe_keys(Schema& schema, const std::string& router, int every = 1);
/// Where a task's own defaults differ.
struct TrainingDefaults {
  const char* schedule = "cosine";
  double weight_decay = 0.1, clip = 1.0, beta2 = 0.98;
  /// What train/batch_tokens counts; null: there is no such key.
  const char* batch_tokens = "tokens of an update over all ranks";
};
/// train/*, optimizer/*, checkpoint/*, parallel/*.
void add_training_keys(Schema& schema, const TrainingDefaults& defaults = {});
/// data/cache, data/tokenizer, data/tokenizer_model, data/vocabulary, data/vocabulary_lines.
void add_tokenizer_keys(Schema& schema, const char* tokenizer = "bytes");

/// moe/* with model/d_model, d_hidden, activation and bias; refuses what cannot be. `causal`: some
/// blocks are, so that what looks at later tokens is to be allowed by moe/allow_future.
MoeConfig read_moe(const Deck& deck, bool causal, std::vector<std::string>& notes);
/// All but the tokenizer's training files.
void read_training(const Deck& deck, TrainConfig& config);
/// Refuses what parallel/deterministic = "layout" cannot promise. `sequences`: of an update at
/// most.
void check_layout_free(const Deck& deck, const MoeConfig& moe, int moe_every,
                       std::int64_t sequences);
/// Refuses heads that do not divide d_model.
void check_heads(const Deck& deck, int heads, int d_model);

/// Refuses heads that rotary positions cannot turn.
void check_rotary(const Deck& deck, Positions positions, int heads, int d_model);

}  // namespace kokomoe::detail
