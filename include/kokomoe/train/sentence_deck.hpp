// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/sentences.hpp"
#include "kokomoe/io/deck.hpp"
#include "kokomoe/model/sentence_classifier.hpp"
#include "kokomoe/train/train_config.hpp"

#include <string>
#include <vector>

namespace kokomoe {

/// What a deck of run/task = "sentences" says.
struct SentenceTaskConfig : TrainConfig {
  SentenceClassifierConfig model;  ///< vocabulary is filled in from the tokenizer
  SentenceFormat format;
  std::vector<std::string> train_files, heldout_files;
  int sentences = 0;       ///< of an update
  int max_length = 0;      ///< tokens of a sequence; longer sentences are cut
  double layer_decay = 1;  ///< of rates: layer l of L learns at decay^(L - l) of the head's
  std::string from;        ///< run or checkpoint whose encoder it begins with; "" = random

  const MoeConfig& moe() const { return model.encoder.moe; }
};

/// See TaskInfo::schema.
Schema sentence_schema(const std::string& router = "");

/// Outputs of the head, by data/format and data/labels: classes, or 1 for a number.
int sentence_outputs(const Deck& deck);

/// See TaskInfo::read.
SentenceTaskConfig read_sentence_deck(const Deck& deck, std::vector<std::string>& notes);

}  // namespace kokomoe
