// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/tokenizer.hpp"

#include <memory>
#include <string>
#include <vector>

namespace kokomoe::detail {

std::shared_ptr<const Tokenizer> byte_tokenizer();

/// From a serialized SentencePiece model; `origin` names it in errors.
std::shared_ptr<const Tokenizer> sentencepiece_tokenizer(const std::string& model,
                                                         const std::string& origin);

/// Trains a model on text files; the same text and size give the same model.
std::string train_sentencepiece(const std::vector<std::string>& files, TextForm form,
                                int vocabulary);

}  // namespace kokomoe::detail
