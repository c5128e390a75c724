// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "data/text_file.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/data/sentences.hpp"
#include "kokomoe/parallel/agree.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>

namespace kokomoe {

namespace {

namespace fs = std::filesystem;

/// A table's sentences as a text, a line each, for as long as this lives: tokenizers are trained on
/// files.
class SentenceText {
 public:
  explicit SentenceText(const SentenceTable& table)
      : folder_((fs::temp_directory_path() / "kokomoe_sentences_XXXXXX").string()) {
    if (mkdtemp(folder_.data()) == nullptr)
      throw Error(folder_ + ": error: cannot be made: " + std::strerror(errno));
    std::string text;
    for (const std::vector<std::string>* column : {&table.first, &table.second})
      for (const std::string& sentence : *column) text += sentence + "\n";
    try {
      detail::replace_file_with(path(), text);
    } catch (...) {
      remove();
      throw;
    }
  }
  ~SentenceText() { remove(); }
  SentenceText(const SentenceText&) = delete;
  SentenceText& operator=(const SentenceText&) = delete;

  std::string path() const { return folder_ + "/sentences.txt"; }

 private:
  void remove() const {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }

  std::string folder_;
};

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  if (const auto at = text.find(from); !from.empty() && at != text.npos)
    text.replace(at, from.size(), to);
  return text;
}

}  // namespace

std::shared_ptr<const Tokenizer> make_sentence_tokenizer(const TokenizerOptions& options,
                                                         const SentenceFormat& format,
                                                         const Communicator& communicator,
                                                         std::vector<std::string>* notes) {
  if (options.kind != "sentencepiece" || !options.model.empty())
    return make_tokenizer(options, communicator, notes);
  const std::vector<std::string>& tables = options.training_files;
  const SentenceTable table = read_tables(tables, format, true, communicator);
  std::optional<SentenceText> text;
  run_on_root(communicator, [&] { text.emplace(table); });
  const std::string path = communicator.broadcast(text ? text->path() : "");
  TokenizerOptions on_text = options;
  on_text.training_files = {path};
  try {
    return make_tokenizer(on_text, communicator, notes);
  } catch (const InputError& error) {
    // The user knows the tables.
    throw InputError(
        replaced(error.what(), path,
                 "the sentences of " + tables.front() + (tables.size() > 1 ? ", ..." : "")));
  }
}

}  // namespace kokomoe
