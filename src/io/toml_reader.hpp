// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace kokomoe::detail {

/// Where something stands in a text; line and column start at 1, columns count bytes.
struct TextSpan {
  std::size_t line = 0;
  std::size_t column = 0;
  std::size_t length = 1;
};

/// One key of a TOML document, in the order of the text.
struct TomlItem {
  enum class Kind { integer, real, boolean, text, list, numbers, table, other };
  std::string path;  ///< "section/key"
  Kind kind = Kind::other;
  std::int64_t integer = 0;
  double real = 0;
  bool boolean = false;
  std::string text;
  std::vector<std::string> list;  ///< for an array of strings only
  std::vector<double> numbers;    ///< for an array of numbers; an empty array is a list
  std::string found;              ///< "an integer", "a list that holds more than text", ...
  TextSpan key;
  TextSpan value;
};

struct TomlSyntaxError {
  std::string message;
  TextSpan where;
};

/// Lines of a text without their ends.
std::vector<std::string> split_lines(const std::string& text);

/// Where a text stops being UTF-8; npos when all of it is.
std::size_t find_broken_utf8(const std::string& text);

/// All items, tables before their contents. Throws TomlSyntaxError. Holds the only use of toml11,
/// whose versions 3 and 4 differ.
std::vector<TomlItem> read_toml(const std::string& text, const std::string& name);

}  // namespace kokomoe::detail
