// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/text_form.hpp"
#include "kokomoe/parallel/communicator.hpp"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kokomoe {

/// Text to token ids and back. Immutable; safe to share.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual int vocabulary() const = 0;  ///< ids are [0, vocabulary)
  virtual int beginning_of_text() const = 0;
  virtual std::vector<int> encode(std::string_view text) const = 0;
  /// Ids outside the vocabulary and the beginning of text give nothing.
  virtual std::string decode(std::span<const int> ids) const = 0;
  virtual std::string name() const = 0;  ///< "bytes", "sentencepiece"
  /// Equal for tokenizers that encode alike: part of cached files' names.
  virtual std::string identity() const = 0;
  /// Bytes of text that a token stands for; 0 for the beginning of text.
  virtual int bytes_of(int id) const = 0;
  /// True when text must be UTF-8.
  virtual bool needs_utf8() const = 0;
  /// What make_tokenizer_from needs beside the name; "" for bytes.
  virtual std::string serialized() const = 0;
};

struct TokenizerOptions {
  std::string kind = "bytes";  ///< "bytes" or "sentencepiece"
  /// A SentencePiece .model file to load; "" trains one on training_files.
  std::string model;
  int vocabulary = 0;                       ///< of a model to be trained, special tokens and 256
                                            ///< byte tokens included
  std::vector<std::string> training_files;  ///< text, UTF-8
  TextForm training_form = TextForm::bytes;
  /// Of more lines with something in them as many are trained on, evenly spaced; 0 = all. Memory is
  /// several times their size.
  std::int64_t training_lines = 0;
  std::string cache_folder;  ///< trained models are kept here; "" = not kept
};

/// Makes a tokenizer, the same on every rank; the root reads and trains. Collective. InputError for
/// unknown kinds, missing files, a vocabulary that the text cannot fill, and "sentencepiece" in a
/// build without it. Bytes: ids 0-255 are bytes, 256 is the beginning of text.
/// SentencePiece (Kudo and Richardson 2018): unigram model trained with byte fallback, without
/// normalisation, so that decode(encode(text)) = text for all UTF-8 text without U+2581. `notes`
/// gets, on the root, what somebody should know of the model.
std::shared_ptr<const Tokenizer> make_tokenizer(const TokenizerOptions& options,
                                                const Communicator& communicator,
                                                std::vector<std::string>* notes = nullptr);

/// From what name() and serialized() gave.
std::shared_ptr<const Tokenizer> make_tokenizer_from(const std::string& kind,
                                                     const std::string& serialized);

}  // namespace kokomoe
