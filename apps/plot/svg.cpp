// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "plot/svg.hpp"

#include <cmath>
#include <cstdio>

namespace kokomoe::plot {

namespace {

constexpr std::string_view replacement = "\xef\xbf\xbd";

/// Bytes of the character that begins there, 0 when none does (RFC 3629: no surrogates, no longer
/// form than needed, nothing above U+10FFFF).
std::size_t character_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u;
  };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4) return 0;
  for (std::size_t i = 1; i < size; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  const unsigned second = byte(1);
  if (first == 0xe0 && second < 0xa0) return 0;
  if (first == 0xed && second > 0x9f) return 0;
  if (first == 0xf0 && second < 0x90) return 0;
  if (first == 0xf4 && second > 0x8f) return 0;
  return size;
}

template <class Write>
void for_each_character(std::string_view text, const Write& write) {
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t size = character_at(text, i);
    write(size == 0 ? replacement : text.substr(i, size));
    i += size == 0 ? 1 : size;
  }
}

bool is_control(std::string_view character) {
  const auto c = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) return (c < 0x20 && c != '\t' && c != '\n') || c == 0x7f;
  return character.size() == 2 && c == 0xc2 && static_cast<unsigned char>(character[1]) < 0xa0;
}

}  // namespace

std::string escape(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for_each_character(text, [&](std::string_view c) {
    if (c == "&") {
      result += "&amp;";
    } else if (c == "<") {
      result += "&lt;";
    } else if (c == ">") {
      result += "&gt;";
    } else if (c == "\"") {
      result += "&quot;";
    } else if (c == "'") {
      result += "&#39;";
    } else {
      result += is_control(c) ? replacement : c;
    }
  });
  return result;
}

std::string valid_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for_each_character(text, [&](std::string_view c) { result += c; });
  return result;
}

std::string length(double value) {
  char text[64];
  std::snprintf(text, sizeof text, "%.2f", value);
  std::string result = text;
  result.erase(result.find_last_not_of('0') + 1);
  if (result.back() == '.') result.pop_back();
  return result == "-0" ? "0" : result;
}

std::string style_class(int style) {
  const int wrapped = style % most_styles;
  return "k" + std::to_string(wrapped % 7) + " d" + std::to_string(wrapped / 7) + " r" +
         std::to_string(style);
}

std::string svg_text(double x, double y, std::string_view kind, std::string_view content) {
  return "<text x=\"" + length(x) + "\" y=\"" + length(y) + "\" class=\"" + std::string(kind) +
         "\">" + escape(content) + "</text>";
}

std::string swatch(int style) {
  return "<svg class=\"swatch " + style_class(style) +
         "\" viewBox=\"0 0 30 10\" width=\"30\" height=\"10\" aria-hidden=\"true\"><path "
         "class=\"line\" d=\"M1 5H29\"/></svg>";
}

std::string figure(std::string_view title, std::string_view note, std::string_view body) {
  std::string html = "<figure>\n<figcaption><b>" + escape(title) + "</b>";
  if (!note.empty()) html += " <span>" + escape(note) + "</span>";
  html += "</figcaption>\n";
  html += body;
  return html + "\n</figure>\n";
}

}  // namespace kokomoe::plot
