// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/text_form.hpp"
#include "kokomoe/data/tokenizer.hpp"
#include "kokomoe/parallel/communicator.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace kokomoe {

/// Text files as one stream of tokens, each file begun by the beginning-of-text token,
/// memory-mapped from a cache that is made once. Cheap to copy.
class Corpus {
 public:
  /// Tokenizes `files`, or finds the cached tokens of the same contents and tokenizer in
  /// `cache_folder` (made when missing). The root makes the cache, written aside and renamed, while
  /// the others wait; every rank must see the folder. Collective. InputError names the file, and
  /// the line where text is not UTF-8 and the tokenizer wants that.
  static Corpus open(const std::vector<std::string>& files, const Tokenizer& tokenizer,
                     const std::string& cache_folder, const Communicator& communicator,
                     TextForm form = TextForm::bytes);

  std::size_t size() const;         ///< tokens, beginnings of text included
  std::int64_t text_bytes() const;  ///< of all files, in their form
  int vocabulary() const;           ///< every token is below
  int beginning_of_text() const;
  int operator[](std::size_t index) const;
  /// Tokens [begin, begin + count) to `out`. Throws Error past the end.
  void copy(std::size_t begin, std::size_t count, int* out) const;
  /// Bytes of text that token `id` stands for.
  int bytes_of(int id) const;
  /// XXH3 of the files' contents, their borders, and the tokenizer.
  std::uint64_t key() const;
  const std::string& path() const;  ///< the cache file
  bool reused() const;              ///< true when the cache was there already

  struct State;

 private:
  explicit Corpus(std::shared_ptr<const State> state);
  std::shared_ptr<const State> state_;
};

}  // namespace kokomoe
