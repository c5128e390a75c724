// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/text_form.hpp"

#include <cstddef>
#include <string>
#include <string_view>

namespace kokomoe::detail {

/// A file in memory, read by the system as it is touched.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws InputError "<path>: error: ..." when missing, a folder, or unreadable.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const char* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::string_view text() const { return {data_, size_}; }

 private:
  char* data_ = nullptr;
  std::size_t size_ = 0;
};

/// A text file that a user named: InputError when it is empty too.
MappedFile open_text(const std::string& path);

/// Throws InputError "<path>:<line>: error: not UTF-8 ..." at the first byte that breaks UTF-8.
void require_utf8(const std::string& path, std::string_view text);

/// Behind a byte order mark at the beginning of a file.
std::string_view without_mark(std::string_view text);

/// Of a file's text or whole lines of it: "\r" before "\n" and at the end taken out.
std::string without_returns(std::string_view text);

/// True when a file's text in this form is not its bytes.
bool differs_in_form(std::string_view text, TextForm form);

/// Writes a whole file aside and renames it. Throws Error.
void replace_file_with(const std::string& path, const std::string& bytes);

}  // namespace kokomoe::detail
