// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "data/text_file.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kokomoe::detail {

/// The lines of text files that are not empty, in order: what a vocabulary is trained on. Of more
/// than `most` as many are taken, evenly spaced, which ones being a function of their number alone.
class TrainingLines {
 public:
  /// most = 0: all. Reads the files once, to count.
  TrainingLines(const std::vector<std::string>& files, TextForm form, std::int64_t most);

  const std::vector<std::string>& files() const { return files_; }
  std::uint64_t lines() const { return lines_; }
  std::uint64_t taken() const { return taken_; }
  /// The next one that is taken, without its end; false behind the last.
  bool next(std::string_view& line);
  /// Begins again.
  void rewind();
  /// InputError that names the file and the line where text is not UTF-8.
  void require_utf8() const;

 private:
  bool next_of_all(std::string_view& line);

  std::vector<std::string> files_;
  TextForm form_;
  std::vector<MappedFile> maps_;
  std::uint64_t lines_ = 0, taken_ = 0;
  std::size_t map_ = 0;      ///< where the next line is looked for
  std::size_t at_ = 0;       ///< in text of that file
  std::uint64_t share_ = 0;  ///< of the next line that is taken, in 1 / lines_
};

}  // namespace kokomoe::detail
