// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

namespace kokomoe::detail {

struct Character {
  char32_t code;
  std::size_t bytes;  ///< of UTF-8
};

/// The character that begins at `text`, which is not empty. A byte that begins none is one of its
/// own, above all of Unicode's.
inline Character first_character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  const Character lone{static_cast<char32_t>(0x110000 + lead), 1};
  if (lead < 0x80) return {static_cast<char32_t>(lead), 1};
  const std::size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < length) return lone;
  char32_t code = lead & (0x7fU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0U) != 0x80) return lone;
    code = code << 6 | (byte(i) & 0x3fU);
  }
  const bool overlong = code < (length == 4 ? 0x10000U : length == 3 ? 0x800U : 0x80U);
  if (overlong || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return lone;
  return {code, length};
}

/// Unicode's white space and the four separators U+001C to U+001F: what Python's str.split cuts at.
inline bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
         c == 0x205f || c == 0x3000;
}

/// What lies between white space.
inline std::vector<std::string_view> split_at_space(std::string_view text) {
  std::vector<std::string_view> words;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < text.size();) {
    const Character c = first_character(text.substr(i));
    if (is_space(c.code)) {
      if (i > begin) words.push_back(text.substr(begin, i - begin));
      begin = i + c.bytes;
    }
    i += c.bytes;
  }
  if (text.size() > begin) words.push_back(text.substr(begin));
  return words;
}

}  // namespace kokomoe::detail
