// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "data/text_file.hpp"
#include "data/tokenizers.hpp"
#include "kokomoe/config.hpp"
#include "kokomoe/core/error.hpp"

#ifdef KOKOMOE_HAVE_SENTENCEPIECE

#include "io/digest.hpp"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
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

/// Lines of the files, in order.
class Lines final : public sentencepiece::SentenceIterator {
 public:
  Lines(const std::vector<std::string>& files, TextForm form) : form_(form) {
    for (const std::string& path : files) {
      maps_.push_back(open_text(path));
      require_utf8(path, maps_.back().text());
    }
    Next();
  }
  bool done() const override { return done_; }
  void Next() override {
    while (map_ < maps_.size()) {
      const std::string_view rest = text(map_).substr(at_);
      if (rest.empty()) {
        ++map_;
        at_ = 0;
        continue;
      }
      const std::size_t end = std::min(rest.find('\n'), rest.size());
      line_.assign(rest.substr(0, end));
      if (form_ == TextForm::lines && line_.ends_with('\r')) line_.pop_back();
      at_ += std::min(end + 1, rest.size());
      if (!line_.empty()) return;
    }
    done_ = true;
  }
  const std::string& value() const override { return line_; }
  // Its own type in old versions, Abseil's in new ones.
  using Status = decltype(std::declval<const sentencepiece::SentenceIterator&>().status());
  Status status() const override { return {}; }

 private:
  std::string_view text(std::size_t map) const {
    return form_ == TextForm::lines ? without_mark(maps_[map].text()) : maps_[map].text();
  }

  TextForm form_;
  std::vector<MappedFile> maps_;
  std::size_t map_ = 0;
  std::size_t at_ = 0;
  std::string line_;
  bool done_ = false;
};

}  // namespace

std::shared_ptr<const Tokenizer> sentencepiece_tokenizer(const std::string& model,
                                                         const std::string& origin) {
  return std::make_shared<SentencePieceTokenizer>(model, origin);
}

std::string train_sentencepiece(const std::vector<std::string>& files, TextForm form,
                                int vocabulary) {
  Lines lines(files, form);
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
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &lines, &model);
  if (!status.ok())
    throw InputError("SentencePiece cannot train a vocabulary of " + std::to_string(vocabulary) +
                     " on " + files.front() + (files.size() > 1 ? ", ..." : "") + ": " +
                     status.ToString());
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

std::string train_sentencepiece(const std::vector<std::string>&, TextForm, int) {
  no_sentencepiece();
}

}  // namespace kokomoe::detail

#endif
