// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "data/training_lines.hpp"
#include "kokomoe/data/tokenizer.hpp"

#include <memory>
#include <string>
#include <vector>

namespace kokomoe::detail {

std::shared_ptr<const Tokenizer> byte_tokenizer();

/// From a serialized SentencePiece model; `origin` names it in errors.
std::shared_ptr<const Tokenizer> sentencepiece_tokenizer(const std::string& model,
                                                         const std::string& origin);

/// Trains a model on the lines that are taken; the same lines and size give the same model.
/// InputError for text that is not UTF-8, too small for the vocabulary, or too large for the
/// library.
std::string train_sentencepiece(TrainingLines& lines, int vocabulary);

}  // namespace kokomoe::detail
