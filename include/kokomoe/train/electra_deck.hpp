// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/io/deck.hpp"
#include "kokomoe/model/electra.hpp"
#include "kokomoe/train/train_config.hpp"

#include <string>
#include <vector>

namespace kokomoe {

/// What a deck of run/task = "electra" says.
struct ElectraTaskConfig : TrainConfig {
  ElectraConfig model;  ///< vocabulary is filled in from the tokenizer
  double mask_rate = 0.15;
  std::vector<std::string> train_files, heldout_files;
  int sequence_length = 0;
  std::int64_t eval_tokens = 0;  ///< read at most; 0: all

  const MoeConfig& moe() const { return model.discriminator.moe; }
};

/// See TaskInfo::schema.
Schema electra_schema(const std::string& router = "");

/// See TaskInfo::read.
ElectraTaskConfig read_electra_deck(const Deck& deck, std::vector<std::string>& notes);

}  // namespace kokomoe
