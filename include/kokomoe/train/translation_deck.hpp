// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/io/deck.hpp"
#include "kokomoe/model/encoder_decoder.hpp"
#include "kokomoe/train/train_config.hpp"

#include <string>
#include <vector>

namespace kokomoe {

/// What a deck of run/task = "translation" says.
struct TranslationConfig : TrainConfig {
  EncoderDecoderConfig model;  ///< vocabulary is filled in from the tokenizer
  std::vector<std::string> train_source, train_target, heldout_source, heldout_target;
  int beam = 4;                 ///< hypotheses kept of a sentence that is translated
  double length_penalty = 0.6;  ///< a of ((5 + n) / 6)^a, which divides their log-probability
  int extra_length = 50;        ///< tokens that a translation may have more than its source

  const MoeConfig& moe() const { return model.moe; }
};

/// See TaskInfo::schema.
Schema translation_schema(const std::string& router = "");

/// See TaskInfo::read.
TranslationConfig read_translation_deck(const Deck& deck, std::vector<std::string>& notes);

}  // namespace kokomoe
