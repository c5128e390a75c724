// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "data/tokenizers.hpp"
#include "kokomoe/config.hpp"
#include "kokomoe/core/error.hpp"

#ifdef KOKOMOE_HAVE_SENTENCEPIECE

#include "io/digest.hpp"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <unordered_map>
#include <utility>

namespace kokomoe::detail {

namespace {

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(const std::string& model, const std::string& origin) : model_(model) {
    const auto status = processor_.LoadFromSerializedProto(model);
    if (!status.ok())
      throw InputError(origin + ": error: no SentencePiece model: " + status.ToString());
    if (processor_.bos_id() < 0)
      throw InputError(origin + ": error: the model has no beginning-of-text token (bos)");
    const int size = processor_.GetPieceSize();
    bytes_.resize(static_cast<std::size_t>(size));
    for (int id = 0; id < size; ++id) {
      const std::string& piece = processor_.IdToPiece(id);
      int bytes = static_cast<int>(piece.size());
      if (processor_.IsByte(id)) {
        bytes = 1;
        if (piece == "<0x0A>") newline_ = id;
      } else if (processor_.IsControl(id) || processor_.IsUnknown(id)) {
        bytes = 0;
      } else {
        // A space is kept as U+2581, three bytes.
        for (auto at = piece.find("\xe2\x96\x81"); at != std::string::npos;
             at = piece.find("\xe2\x96\x81", at + 3))
          bytes -= 2;
      }
      bytes_[static_cast<std::size_t>(id)] = bytes;
    }
  }

  int vocabulary() const override { return processor_.GetPieceSize(); }
  int beginning_of_text() const override { return processor_.bos_id(); }
  std::vector<int> encode(std::string_view text) const override {
    // Line by line: pieces never cross a line's end, and the library's cost grows with length.
    std::vector<int> ids, line_ids;
    while (!text.empty()) {
      const auto end = text.find('\n');
      const bool by_lines = newline_ >= 0 && end != std::string_view::npos;
      const std::string_view line = by_lines ? text.substr(0, end) : text;
      if (!line.empty()) {
        const auto status = processor_.Encode({line.data(), line.size()}, &line_ids);
        if (!status.ok()) fail("SentencePiece", status.ToString());
        ids.insert(ids.end(), line_ids.begin(), line_ids.end());
      }
      if (by_lines) ids.push_back(newline_);
      text.remove_prefix(by_lines ? end + 1 : text.size());
    }
    return ids;
  }
  std::string decode(std::span<const int> ids) const override {
    std::vector<int> known;
    for (const int id : ids)
      if (id >= 0 && id < vocabulary() && !processor_.IsControl(id)) known.push_back(id);
    std::string text;
    // New versions want Abseil's span here, which old ones do not have.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    const auto status = processor_.Decode(known, &text);
#pragma GCC diagnostic pop
    if (!status.ok()) fail("SentencePiece", status.ToString());
    return text;
  }
  std::string name() const override {
    return "sentencepiece";
  }
  std::string identity() const override {
    return "sentencepiece/1/" + hex(xxh3(model_.data(), model_.size()));
  }
  int bytes_of(int id) const override {
    return id >= 0 && id < vocabulary() ? bytes_[static_cast<std::size_t>(id)] : 0;
  }
  bool needs_utf8() const override {
    return true;
  }
  std::string serialized() const override {
    return model_;
  }

 private:
  std::string model_;
  sentencepiece::SentencePieceProcessor processor_;
  std::vector<int> bytes_;
  int newline_ = -1;
};

/// Lines as the library reads them.
class Sentences final : public sentencepiece::SentenceIterator {
 public:
  explicit Sentences(TrainingLines& lines) : lines_(lines) { Next(); }
  bool done() const override { return done_; }
  void Next() override {
    std::string_view line;
    done_ = !lines_.next(line);
    if (!done_) line_.assign(line);
  }
  const std::string& value() const override { return line_; }
  // Its own type in old versions, Abseil's in new ones.
  using Status = decltype(std::declval<const sentencepiece::SentenceIterator&>().status());
  Status status() const override { return {}; }

 private:
  TrainingLines& lines_;
  std::string line_;
  bool done_ = false;
};

/// The library counts all characters and ends of lines in 31 bits, and ends the process where they
/// do not fit.
void require_size(TrainingLines& lines) {
  std::uint64_t characters = 0;
  lines.rewind();
  for (std::string_view line; lines.next(line);)
    characters += 1 + static_cast<std::uint64_t>(std::count_if(
                          line.begin(), line.end(), [](char c) { return (c & 0xc0) != 0x80; }));
  if (characters > std::numeric_limits<std::int32_t>::max())
    throw InputError("SentencePiece cannot train on more than 2^31 - 1 characters, and " +
                     std::to_string(lines.taken()) + " lines of the text have " +
                     std::to_string(characters) +
                     ": lower data/vocabulary_lines, or name a model in data/tokenizer_model");
}

}  // namespace

std::shared_ptr<const Tokenizer> sentencepiece_tokenizer(const std::string& model,
                                                         const std::string& origin) {
  return std::make_shared<SentencePieceTokenizer>(model, origin);
}

std::string train_sentencepiece(TrainingLines& lines, int vocabulary) {
  lines.require_utf8();
  require_size(lines);
  lines.rewind();
  Sentences sentences(lines);
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", "unigram"},
      {"vocab_size", std::to_string(vocabulary)},
      {"byte_fallback", "true"},
      // Text must come back byte for byte, or bits per byte would mean nothing.
      {"normalization_rule_name", "identity"},
      {"add_dummy_prefix", "false"},
      {"remove_extra_whitespaces", "false"},
      {"character_coverage", "1.0"},
      {"max_sentence_length", "1048576"},
      {"shuffle_input_sentence", "false"},
      // Sums are cut by thread: the number fixes the model, whatever machine trains it.
      {"num_threads", "4"},
      {"unk_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "-1"},
      {"pad_id", "-1"},
      {"minloglevel", "2"},
  };
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &sentences, &model);
  if (!status.ok())
    throw InputError("SentencePiece cannot train a vocabulary of " + std::to_string(vocabulary) +
                     " on " + lines.files().front() + (lines.files().size() > 1 ? ", ..." : "") +
                     ": " + status.ToString());
  return model;
}

}  // namespace kokomoe::detail

#else

namespace kokomoe::detail {

namespace {
[[noreturn]] void no_sentencepiece() {
  throw InputError(
      "this Kokomoe was built without SentencePiece: use the tokenizer \"bytes\", or "
      "install libsentencepiece-dev and build again");
}
}  // namespace

std::shared_ptr<const Tokenizer> sentencepiece_tokenizer(const std::string&, const std::string&) {
  no_sentencepiece();
}

std::string train_sentencepiece(TrainingLines&, int) {
  no_sentencepiece();
}

}  // namespace kokomoe::detail

#endif
