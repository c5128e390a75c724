// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/io/deck.hpp"
#include "kokomoe/model/decoder_lm.hpp"
#include "kokomoe/train/train_config.hpp"

#include <string>
#include <vector>

namespace kokomoe {

/// What a language-model deck says, in the library's own terms.
struct LanguageModelConfig : TrainConfig {
  DecoderConfig model;  ///< vocabulary is filled in from the tokenizer
  std::vector<std::string> train_files, heldout_files;
  int sequence_length = 0;
  int eval_stride = 0;
  std::int64_t eval_tokens = 0;  ///< scored at most; 0: all

  const MoeConfig& moe() const { return model.moe; }
};

/// Every key of run/task = "language_model", with the options of all registered routers as
/// moe/OPTION. With `router`, its defaults, and options of others are not listed.
Schema language_model_schema(const std::string& router = "");

/// Reads a deck with the defaults of the router that it names. See Deck::load and Deck::parse.
Deck load_language_model_deck(const std::string& path,
                              const std::vector<std::string>& overrides = {});
Deck parse_language_model_deck(const std::string& text, const std::string& name,
                               const std::vector<std::string>& overrides = {});

/// Checks what one key alone cannot say (heads divide d_model, k <= experts, a batch-coupled router
/// in a causal model needs moe/allow_future, ...). Throws InputError that points into the deck.
/// Notes that are no errors (options that the chosen router does not take) go to `notes`.
LanguageModelConfig read_language_model_deck(const Deck& deck, std::vector<std::string>& notes);

}  // namespace kokomoe
