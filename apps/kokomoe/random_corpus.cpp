// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "random_corpus.hpp"

#include "kokomoe/core/error.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

namespace kokomoe::app {

namespace {

namespace fs = std::filesystem;

/// Takes each eight bytes as a number, and that modulo the vocabulary as a token.
class NumbersAsTokens : public Tokenizer {
 public:
  explicit NumbersAsTokens(int vocabulary) : vocabulary_(vocabulary) {}

  int vocabulary() const override { return vocabulary_; }
  int beginning_of_text() const override { return 0; }
  std::vector<int> encode(std::string_view text) const override {
    std::vector<int> ids(text.size() / sizeof(std::uint64_t));
    for (std::size_t i = 0; i < ids.size(); ++i) {
      std::uint64_t number = 0;
      std::memcpy(&number, text.data() + i * sizeof number, sizeof number);
      ids[i] = static_cast<int>(number % static_cast<std::uint64_t>(vocabulary_));
    }
    return ids;
  }
  std::string decode(std::span<const int>) const override { return ""; }
  std::string name() const override { return "numbers"; }
  std::string identity() const override { return name() + std::to_string(vocabulary_); }
  int bytes_of(int) const override { return sizeof(std::uint64_t); }
  bool needs_utf8() const override { return false; }
  std::string serialized() const override { return ""; }

 private:
  int vocabulary_;
};

class TemporaryFolder {
 public:
  TemporaryFolder() : path_((fs::temp_directory_path() / "kokomoe_bench_XXXXXX").string()) {
    if (mkdtemp(path_.data()) == nullptr)
      throw InputError(path_ + ": error: cannot be made: " + std::strerror(errno));
  }
  ~TemporaryFolder() {
    std::error_code code;
    fs::remove_all(path_, code);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

Corpus random_corpus(int vocabulary, std::size_t tokens) {
  const TemporaryFolder folder;
  const std::string text = folder.path() + "/text";
  std::ofstream file(text, std::ios::binary);
  std::mt19937_64 numbers(1);
  for (std::size_t i = 0; i < tokens; ++i) {
    const std::uint64_t number = numbers();
    file.write(reinterpret_cast<const char*>(&number), sizeof number);
  }
  file.close();
  if (!file) throw InputError(text + ": error: cannot be written");
  // Mapped by now: it stays readable when the folder is gone.
  return Corpus::open({text}, NumbersAsTokens(vocabulary), folder.path(), Communicator());
}

}  // namespace kokomoe::app
