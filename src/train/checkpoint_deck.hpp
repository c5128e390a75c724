// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/io/deck.hpp"
#include "kokomoe/train/train_config.hpp"

#include <string>
#include <vector>

namespace kokomoe::detail {

/// A checkpoint that a command goes on from, as the root read it.
struct SavedRun {
  std::string folder;  ///< step_N
  CheckpointMeta meta;
};

/// Collective.
SavedRun read_saved_run(const std::string& step_folder, const Communicator& communicator);

/// Its deck with `overrides`.
Deck deck_of(const SavedRun& saved, const std::vector<std::string>& overrides);

/// The least number of ranks from `wanted` on that divides `ranks`, so that no rank holds more
/// experts than `wanted` of them would; all, when there are fewer. 0 stays: it means all.
int fitting_expert_ranks(int wanted, int ranks);

/// A checkpoint knows no layout: what its run had is only a wish here, unless an override asks for
/// it. What does not fit the ranks gives way, and is noted.
void fit_layout(const Deck& deck, int ranks, TrainConfig& config, std::vector<std::string>& notes);

/// A resumed run is the same run: what makes the model and its draws may change only where an
/// override of this command says so itself, else InputError. Other changes are noted.
void compare_with_checkpoint(const Deck& deck, const SavedRun& saved,
                             std::vector<std::string>& notes);

/// InputError when the checkpoint's encoder is not the one that the deck makes.
void refuse_other_encoder(const Deck& deck, const std::string& step_folder);

/// A trained model is what it is: InputError when the deck makes another one, or another tokenizer.
void refuse_other_model(const Deck& deck, const SavedRun& saved);

}  // namespace kokomoe::detail
