// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/tokenizer.hpp"
#include "kokomoe/io/deck.hpp"
#include "kokomoe/model/decoder_lm.hpp"
#include "kokomoe/nn/optimizer.hpp"
#include "kokomoe/parallel/expert_layout.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace kokomoe {

/// What a language-model deck says, in the library's own terms.
struct LanguageModelConfig {
  std::uint64_t seed = 0;
  bool double_precision = false;
  DecoderConfig model;  ///< vocabulary is filled in from the tokenizer
  AdamWConfig optimizer;
  Schedule schedule;
  double clip = 0;
  double label_smoothing = 0;
  std::vector<std::string> freeze;
  bool skip_non_finite = false;  ///< leave out updates whose loss or gradient is not finite

  std::int64_t steps = 0;
  std::int64_t batch_tokens = 0;
  int accumulate = 1;
  std::int64_t eval_every = 0;
  std::int64_t checkpoint_every = 0;
  int checkpoint_keep = 2;
  ParallelOptions parallel;
  bool layout_free = false;  ///< parallel/deterministic = "layout"

  TokenizerOptions tokenizer;
  std::vector<std::string> train_files, heldout_files;
  std::string cache_folder;
  int sequence_length = 0;
  int eval_stride = 0;
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
