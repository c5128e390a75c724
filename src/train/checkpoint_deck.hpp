// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/io/deck.hpp"

#include <string>
#include <vector>

namespace kokomoe::detail {

/// A resumed run is the same run: what makes the model and its draws may change only where an
/// override of this command says so itself, else InputError. Other changes are noted.
void compare_with_checkpoint(const Deck& deck, const std::string& checkpoint,
                             std::vector<std::string>& notes);

/// A trained model is what it is: InputError when the deck makes another one, or another tokenizer.
void refuse_other_model(const Deck& deck, const std::string& checkpoint);

}  // namespace kokomoe::detail
