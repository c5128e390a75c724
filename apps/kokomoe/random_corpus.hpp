// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/corpus.hpp"

#include <cstddef>

namespace kokomoe::app {

/// About `tokens` tokens, each drawn uniformly from [0, vocabulary), the same each time. Not
/// collective: every rank makes its own, in a temporary folder that is gone when this returns.
/// Throws InputError when that cannot be written.
Corpus random_corpus(int vocabulary, std::size_t tokens);

}  // namespace kokomoe::app
