// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/toml_reader.hpp"

#include <toml.hpp>

#include <algorithm>
#include <cctype>
#include <exception>
#include <limits>
#include <sstream>
#include <tuple>

namespace kokomoe::detail {

namespace {

// The adapters between toml11 3 and 4.
#if defined(TOML11_VERSION_MAJOR) && TOML11_VERSION_MAJOR >= 4
TextSpan span_of(const toml::source_location& location) {
  return {location.first_line_number(), location.first_column_number(),
          std::max<std::size_t>(location.length(), 1)};
}
#else
TextSpan span_of(const toml::source_location& location) {
  return {location.line(), location.column(), std::max<std::size_t>(location.region(), 1)};
}
#endif

/// toml11 parses by recursion: refuses nesting that only an attack would have, by brackets or by
/// the dots in a key.
void check_nesting(const std::vector<std::string>& lines) {
  constexpr int deepest = 64;
  int depth = 0, dots = 0;
  std::string quote;  // what ends the string that we are in
  for (std::size_t l = 0; l < lines.size(); ++l) {
    const std::string& line = lines[l];
    for (std::size_t i = 0; i < line.size(); ++i) {
      const char c = line[i];
      if (!quote.empty()) {
        if (c == '\\' && quote[0] == '"') {
          ++i;
        } else if (line.compare(i, quote.size(), quote) == 0) {
          i += quote.size() - 1;
          // Text may end in one or two quotes itself.
          for (int more = 0;
               more < 2 && quote.size() == 3 && line.compare(i + 1, 1, quote, 0, 1) == 0; ++more)
            ++i;
          quote.clear();
        }
      } else if (c == '#') {
        break;
      } else if (c == '"' || c == '\'') {
        const std::string triple(3, c);
        quote = line.compare(i, 3, triple) == 0 ? triple : std::string(1, c);
        i += quote.size() - 1;
      } else if (c == '[' || c == '{') {
        if (++depth > deepest)
          throw TomlSyntaxError{"brackets are nested too deeply", {l + 1, i + 1, 1}};
        dots = 0;
      } else if (c == ']' || c == '}') {
        --depth;
      } else if (c == '=' || c == ',') {
        dots = 0;
      } else if (c == '.' && ++dots > deepest) {
        throw TomlSyntaxError{"a key has too many parts", {l + 1, i + 1, 1}};
      }
    }
    dots = 0;
    if (quote.size() == 1) quote.clear();
  }
}

/// toml11 throws text made for terminals; its first line, line number and caret are what is said
/// alike by all versions.
TomlSyntaxError condense(const std::string& what, const std::vector<std::string>& lines) {
  TomlSyntaxError error;
  std::istringstream stream(what);
  std::string line;
  bool numbered = false;
  while (std::getline(stream, line)) {
    if (error.message.empty() && !line.empty()) {
      std::string title = line;
      if (title.rfind("[error] ", 0) == 0) title.erase(0, 8);
      if (const auto end = title.find(": "); title.rfind("toml::", 0) == 0 && end != title.npos)
        title.erase(0, end + 2);
      error.message = title;
      continue;
    }
    const auto bar = line.find('|');
    if (bar == std::string::npos) continue;
    std::size_t first = line.find_first_not_of(' ');
    if (!numbered && first < bar && std::isdigit(static_cast<unsigned char>(line[first]))) {
      error.where.line = std::strtoul(line.c_str() + first, nullptr, 10);
      numbered = true;
    } else if (numbered) {
      const auto caret = line.find_first_of("^~", bar);
      if (caret == std::string::npos) break;
      error.where.column = caret - bar - 1;
      const auto end = line.find_first_not_of("^~-", caret);
      if (end != std::string::npos) {
        const auto note = line.substr(std::min(line.size(), line.find_first_not_of(' ', end)));
        if (!note.empty()) error.message += ": " + note;
      }
      break;
    }
  }
  error.where.line =
      std::clamp<std::size_t>(error.where.line, 1, std::max<std::size_t>(lines.size(), 1));
  const std::size_t width = lines.empty() ? 0 : lines[error.where.line - 1].size();
  error.where.column = std::clamp<std::size_t>(error.where.column, 1, width + 1);
  if (error.message.empty()) error.message = "not TOML";
  return error;
}

/// The key's own place: toml11 keeps only its value's. Searches back from there.
TextSpan find_key(const std::vector<std::string>& lines, const std::string& key,
                  const TextSpan& value, bool table) {
  TextSpan span = value;
  if (value.line == 0 || value.line > lines.size()) return span;
  const std::string& line = lines[value.line - 1];
  std::size_t from = value.column - 1;
  if (table) from = line.size();
  for (std::size_t at = line.rfind(key, from); at != std::string::npos;
       at = at == 0 ? std::string::npos : line.rfind(key, at - 1)) {
    const auto part_of_word = [&](std::size_t i) {
      if (i >= line.size()) return false;
      const auto c = static_cast<unsigned char>(line[i]);
      return std::isalnum(c) != 0 || c == '_' || c == '-';
    };
    if ((at > 0 && part_of_word(at - 1)) || part_of_word(at + key.size())) continue;
    return {value.line, at + 1, std::max<std::size_t>(key.size(), 1)};
  }
  // Keys with escapes, or a value on a line of its own.
  span.length = 1;
  return span;
}

class Reader {
 public:
  explicit Reader(const std::vector<std::string>& lines) : lines_(lines) {}

  void table(const toml::value& value, const std::string& prefix) {
    for (const auto& [key, child] : value.as_table()) item(key, child, prefix);
  }

  std::vector<TomlItem> sorted() {
    std::sort(items_.begin(), items_.end(), [](const TomlItem& a, const TomlItem& b) {
      return std::tie(a.key.line, a.key.column, a.path) <
             std::tie(b.key.line, b.key.column, b.path);
    });
    return std::move(items_);
  }

 private:
  void item(const std::string& key, const toml::value& value, const std::string& prefix) {
    TomlItem result;
    result.path = prefix + key;
    result.value = span_of(value.location());
    result.key = find_key(lines_, key, result.value, value.is_table());
    fill(result, value);
    const bool is_table = result.kind == TomlItem::Kind::table;
    const std::string inner = result.path + "/";
    items_.push_back(std::move(result));
    if (is_table) table(value, inner);
  }

  /// toml11 3.7 takes 99999999999999999999 for the largest integer, and says nothing.
  static bool beyond(const toml::value& value) {
    using Limits = std::numeric_limits<std::int64_t>;
    const auto integer = static_cast<std::int64_t>(value.as_integer());
    return integer == Limits::max() || integer == Limits::min();
  }

  static void fill(TomlItem& result, const toml::value& value) {
    using Kind = TomlItem::Kind;
    if (value.is_integer() && beyond(value)) {
      result.found = "an integer beyond 64 bits";
    } else if (value.is_integer()) {
      result.kind = Kind::integer;
      result.integer = static_cast<std::int64_t>(value.as_integer());
      result.found = "an integer";
    } else if (value.is_floating()) {
      result.kind = Kind::real;
      result.real = static_cast<double>(value.as_floating());
      result.found = "a real number";
    } else if (value.is_boolean()) {
      result.kind = Kind::boolean;
      result.boolean = value.as_boolean();
      result.found = "true or false";
    } else if (value.is_string()) {
      result.kind = Kind::text;
      result.text = toml::get<std::string>(value);
      result.found = "text";
    } else if (value.is_table()) {
      result.kind = Kind::table;
      result.found = "a section";
    } else if (value.is_array()) {
      result.kind = Kind::list;
      result.found = "a list of text";
      for (const auto& element : value.as_array()) {
        if (element.is_string())
          result.list.push_back(toml::get<std::string>(element));
        else if (element.is_integer() && !beyond(element))
          result.numbers.push_back(static_cast<double>(element.as_integer()));
        else if (element.is_floating())
          result.numbers.push_back(static_cast<double>(element.as_floating()));
      }
      const std::size_t size = value.as_array().size();
      if (size > 0 && result.numbers.size() == size) {
        result.kind = Kind::numbers;
        result.found = "a list of numbers";
      } else if (result.list.size() != size) {
        result.kind = Kind::other;
        result.found = "a list of several kinds";
      }
    } else {
      result.found = "a date or time";
    }
  }

  const std::vector<std::string>& lines_;
  std::vector<TomlItem> items_;
};

}  // namespace

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::size_t begin = 0;
  while (begin < text.size()) {
    std::size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    if (!lines.back().empty() && lines.back().back() == '\r') lines.back().pop_back();
    begin = end + 1;
  }
  return lines;
}

std::size_t find_broken_utf8(const std::string& text) {
  const auto byte = [&](std::size_t i) -> unsigned {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;
  };
  for (std::size_t i = 0; i < text.size();) {
    const unsigned lead = byte(i);
    if ((lead >= 0x80 && lead < 0xc2) || lead > 0xf4) return i;
    const std::size_t more = lead < 0x80 ? 0 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
    for (std::size_t k = 1; k <= more; ++k)
      if ((byte(i + k) & 0xc0) != 0x80) return i;
    // Longer than needed, halves of UTF-16, beyond the last code point.
    const unsigned second = byte(i + 1);
    if ((lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) ||
        (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f))
      return i;
    i += 1 + more;
  }
  return std::string::npos;
}

std::vector<TomlItem> read_toml(const std::string& text, const std::string& name) {
  const std::vector<std::string> lines = split_lines(text);
  check_nesting(lines);
  // TOML is UTF-8, and toml11 3.7 reads out of bounds to say so.
  if (const auto broken = find_broken_utf8(text); broken != std::string::npos) {
    const std::string before = text.substr(0, broken);
    const std::size_t begin = before.rfind('\n') + 1;  // 0 where there is none
    const auto line = static_cast<std::size_t>(std::count(before.begin(), before.end(), '\n'));
    throw TomlSyntaxError{"this is not UTF-8", {line + 1, broken - begin + 1, 1}};
  }
  // toml11 3.7 reads past the end of an empty text, or of one that a NUL or a CR ends.
  if (const auto nul = text.find('\0'); nul != std::string::npos) {
    const auto line = static_cast<std::size_t>(
        std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(nul), '\n'));
    throw TomlSyntaxError{"a zero byte: is this a text file?", {line + 1, 1, 1}};
  }
  std::istringstream stream(text + "\n");
  Reader reader(lines);
  try {
    const toml::value document = toml::parse(stream, name);
    if (document.is_table()) reader.table(document, "");
  } catch (const std::exception& error) {
    throw condense(error.what(), lines);
  }
  return reader.sorted();
}

}  // namespace kokomoe::detail
