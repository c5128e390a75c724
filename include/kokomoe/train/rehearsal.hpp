// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/io/deck.hpp"
#include "kokomoe/parallel/communicator.hpp"
#include "kokomoe/train/language_model_deck.hpp"

#include <string>
#include <vector>

namespace kokomoe {

/// The same with stand-ins for what training finds in its text: the vocabulary, where the deck does
/// not say, and token counts. Enough to declare the model.
LanguageModelConfig with_stand_ins(LanguageModelConfig config);

/// Finds before any work, and without memory for a model, what training would refuse later: sizes
/// that do not go together, train/freeze without a match, a text that is too short. InputError that
/// points at the key. Its files are known to be there (require_data_files). On the root alone.
void rehearse_language_model(const Deck& deck, const LanguageModelConfig& config);

/// Adds a note for each setting that the deck makes and that does nothing, and for each that it
/// makes for another router than the one that an override names.
void note_idle_settings(const Deck& deck, std::vector<std::string>& notes);

/// True when an output may depend on later tokens, so that losses are not those of a causal model.
bool looks_ahead(const LanguageModelConfig& config);

}  // namespace kokomoe
