// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/deck_state.hpp"
#include "kokomoe/core/error.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <set>
#include <utility>

namespace kokomoe::detail {

namespace {

using Kind = TomlItem::Kind;

std::string leaf(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

std::string did_you_mean(const std::string& name) {
  return name.empty() ? "" : "did you mean \"" + name + "\"?";
}

/// The key that was meant: the same word in another section, or the nearest spelling.
std::string nearest_key(const Schema& schema, const std::string& path) {
  std::vector<std::string> names;
  for (const KeySpec& key : schema.keys()) {
    if (leaf(key.name) == leaf(path)) return key.name;
    names.push_back(key.name);
  }
  return nearest_name(path, names);
}

std::set<std::string> sections_of(const Schema& schema) {
  std::set<std::string> sections;
  for (const KeySpec& key : schema.keys())
    for (auto slash = key.name.find('/'); slash != std::string::npos;
         slash = key.name.find('/', slash + 1))
      sections.insert(key.name.substr(0, slash));
  return sections;
}

struct Problem {
  std::string message;
  std::string hint;
};

std::string number_text(const KeySpec::Value& value) {
  if (const auto* integer = std::get_if<std::int64_t>(&value)) return std::to_string(*integer);
  return shortest(std::get<double>(value));
}

std::optional<Problem> check_range(const KeySpec& key, const KeySpec::Value& value) {
  const auto* integer = std::get_if<std::int64_t>(&value);
  const double number = integer ? static_cast<double>(*integer) : std::get<double>(value);
  if (!std::isfinite(number)) return Problem{"\"" + key.name + "\" must be finite", ""};
  if (number >= key.minimum && number <= key.maximum) return std::nullopt;
  std::string wanted;
  if (!std::isfinite(key.maximum))
    wanted = "at least " + shortest(key.minimum);
  else if (!std::isfinite(key.minimum))
    wanted = "at most " + shortest(key.maximum);
  else
    wanted = "between " + shortest(key.minimum) + " and " + shortest(key.maximum);
  return Problem{"\"" + key.name + "\" is " + number_text(value) + ", but must be " + wanted, ""};
}

std::optional<Problem> check_choice(const KeySpec& key, const std::string& word) {
  if (key.choices.empty() ||
      std::find(key.choices.begin(), key.choices.end(), word) != key.choices.end())
    return std::nullopt;
  std::string all;
  for (const std::string& choice : key.choices) all += (all.empty() ? "" : ", ") + choice;
  return Problem{"\"" + key.name + "\" is \"" + word + "\", but must be one of: " + all,
                 did_you_mean(nearest_name(word, key.choices))};
}

/// The item as a value of the key's type, or what is wrong with it.
std::optional<Problem> convert(const KeySpec& key, const TomlItem& item, KeySpec::Value& value) {
  const KeySpec::Value& type = key.default_value;
  if (std::holds_alternative<std::int64_t>(type) && item.kind == Kind::integer) {
    value = item.integer;
    return check_range(key, value);
  }
  if (std::holds_alternative<double>(type) &&
      (item.kind == Kind::real || item.kind == Kind::integer)) {
    value = item.kind == Kind::real ? item.real : static_cast<double>(item.integer);
    return check_range(key, value);
  }
  if (std::holds_alternative<bool>(type) && item.kind == Kind::boolean) {
    value = item.boolean;
    return std::nullopt;
  }
  if (std::holds_alternative<std::string>(type) && item.kind == Kind::text) {
    value = item.text;
    return check_choice(key, item.text);
  }
  if (std::holds_alternative<std::vector<std::string>>(type) && item.kind == Kind::list) {
    value = item.list;
    for (const std::string& word : item.list)
      if (auto problem = check_choice(key, word)) return problem;
    return std::nullopt;
  }
  if (std::holds_alternative<std::vector<double>>(type) &&
      (item.kind == Kind::numbers || (item.kind == Kind::list && item.list.empty()))) {
    value = item.numbers;
    for (const double number : item.numbers)
      if (auto problem = check_range(key, KeySpec::Value(number))) return problem;
    return std::nullopt;
  }
  return Problem{"\"" + key.name + "\" must be " + key.type_name() + ", not " + item.found, ""};
}

class Checker {
 public:
  Checker(const std::string& text, const std::string& name, const Schema& schema)
      : state_(std::make_shared<Deck::State>()), sections_(sections_of(schema)) {
    state_->name = name;
    state_->lines = split_lines(text);
    state_->schema = schema;
    for (const KeySpec& key : schema.keys()) {
      Setting setting;
      setting.value = key.default_value;
      state_->settings.emplace(key.name, std::move(setting));
    }
    try {
      items_ = read_toml(text, name);
    } catch (const TomlSyntaxError& error) {
      // The rest cannot be judged.
      throw InputError(point_at(name, state_->lines, error.where, error.message, ""));
    }
  }

  void file() {
    std::string unknown_section;  // its keys are not reported again
    for (const TomlItem& item : items_) {
      if (!unknown_section.empty() && item.path.rfind(unknown_section, 0) == 0) continue;
      const KeySpec* key = state_->schema.find(item.path);
      if (key != nullptr) {
        Setting& setting = state_->settings.at(item.path);
        setting.origin = Origin::file;
        setting.value_span = item.value;
        if (const auto problem = convert(*key, item, setting.value))
          at(item.value, problem->message, problem->hint);
      } else if (item.kind == Kind::table) {
        if (sections_.count(item.path) != 0) continue;
        at(item.key, "unknown section \"" + item.path + "\"",
           did_you_mean(nearest_name(item.path, sections_)));
        unknown_section = item.path + "/";
      } else if (sections_.count(item.path) != 0) {
        at(item.value, "\"" + item.path + "\" must be a section, not " + item.found, "");
      } else {
        at(item.key, "unknown key \"" + item.path + "\"",
           did_you_mean(nearest_key(state_->schema, item.path)));
      }
    }
  }

  void override_with(const std::string& text) {
    const auto equals = text.find('=');
    if (equals == std::string::npos || equals == 0) {
      errors_.push_back(point_at_override(text, 1, std::max<std::size_t>(text.size(), 1),
                                          "expected section/key=value", ""));
      return;
    }
    // The effective deck could not be read again.
    if (const auto broken = find_broken_utf8(text); broken != std::string::npos) {
      errors_.push_back(point_at_override(text, broken + 1, 1, "this is not UTF-8", ""));
      return;
    }
    const std::string name = text.substr(0, equals);
    const KeySpec* key = state_->schema.find(name);
    if (key == nullptr) {
      errors_.push_back(point_at_override(text, 1, equals, "unknown key \"" + name + "\"",
                                          did_you_mean(nearest_key(state_->schema, name))));
      return;
    }
    const std::string word = text.substr(equals + 1);
    const std::size_t length = std::max<std::size_t>(word.size(), 1);
    Setting setting;
    setting.origin = Origin::override_text;
    setting.override_text = text;
    setting.value_span = {1, equals + 2, length};
    if (const auto problem = convert(*key, override_item(*key, word), setting.value))
      errors_.push_back(
          point_at_override(text, equals + 2, length, problem->message, problem->hint));
    else
      state_->settings[name] = std::move(setting);
    overridden_.insert(name);
  }

  std::shared_ptr<const Deck::State> finish() {
    for (const KeySpec& key : state_->schema.keys())
      if (key.must_be_given && overridden_.count(key.name) == 0 &&
          state_->settings.at(key.name).origin == Origin::default_value)
        errors_.push_back(state_->name + ": error: missing key \"" + key.name + "\" (" +
                          key.type_name() + (key.doc.empty() ? "" : ": " + key.doc) + ")");
    std::string all;
    for (const std::string& error : errors_) all += (all.empty() ? "" : "\n") + error;
    if (!all.empty()) throw InputError(all);
    return state_;
  }

 private:
  void at(const TextSpan& span, const std::string& message, const std::string& hint) {
    errors_.push_back(point_at(state_->name, state_->lines, span, message, hint));
  }

  /// An override's value: TOML, or a bare word.
  static TomlItem override_item(const KeySpec& key, const std::string& word) {
    const bool wants_text = std::holds_alternative<std::string>(key.default_value);
    const bool wants_list = std::holds_alternative<std::vector<std::string>>(key.default_value);
    TomlItem item;
    item.kind = Kind::text;
    item.text = word;
    item.found = "text";
    if (word.find_first_of("\n\r") == std::string::npos) {
      try {
        const std::vector<TomlItem> items = read_toml("v = " + word, "override");
        if (items.size() == 1) item = items[0];
      } catch (const TomlSyntaxError&) {
        // Not TOML: a bare word.
      }
    }
    const bool keep = item.kind == Kind::text || (wants_list && item.kind == Kind::list);
    if ((wants_text || wants_list) && !keep) {
      item.kind = Kind::text;  // 2024 or true where text is wanted
      item.text = word;
    }
    if (wants_list && item.kind == Kind::text) {
      const bool broken = !word.empty() && word[0] == '[';
      item.kind = broken ? Kind::other : Kind::list;
      item.found = "a broken list: write ['a', 'b'] and quote it for the shell";
      item.list = {item.text};
      if (word.empty()) item.list.clear();
    }
    return item;
  }

  std::shared_ptr<Deck::State> state_;
  std::set<std::string> sections_;
  std::vector<TomlItem> items_;
  std::vector<std::string> errors_;
  std::set<std::string> overridden_;
};

/// The part of a line that is worth showing; moves `column` along with it.
std::string clip(const std::string& line, std::size_t& column) {
  constexpr std::size_t widest = 160, before = 60;
  if (line.size() <= widest) return line;
  const std::size_t first = column > before ? column - before : 0;
  std::string part = line.substr(std::min(first, line.size()), widest);
  if (first + part.size() < line.size()) part += "...";
  if (first == 0) return part;
  column = column - first + 3;
  return "..." + part;
}

std::string underline(const std::string& line, std::size_t column, std::size_t length,
                      const std::string& hint) {
  const std::size_t begin = std::min(column - 1, line.size());
  const std::size_t end =
      std::min(begin + std::max<std::size_t>(length, 1), std::max(line.size(), begin + 1));
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; };
  std::string result;
  for (std::size_t i = 0; i < begin; ++i)
    if (!continues(line[i])) result += line[i] == '\t' ? '\t' : ' ';
  result += '^';
  for (std::size_t i = begin + 1; i < end; ++i)
    if (!continues(line[i])) result += '~';
  return hint.empty() ? result : result + " " + hint;
}

}  // namespace

std::string point_at(const std::string& name, const std::vector<std::string>& lines,
                     const TextSpan& span, const std::string& message, const std::string& hint) {
  const std::size_t last = std::max<std::size_t>(lines.size(), 1);
  const std::size_t line = std::clamp<std::size_t>(span.line, 1, last);
  const std::size_t column = std::max<std::size_t>(span.column, 1);
  std::size_t at = column;
  const std::string shown = clip(lines.empty() ? "" : lines[line - 1], at);
  const std::string number = std::to_string(line);
  const std::string margin(std::max<std::size_t>(4, number.size()) - number.size(), ' ');
  return name + ":" + number + ":" + std::to_string(column) + ": error: " + message + "\n" +
         margin + number + " | " + shown + "\n" + std::string(margin.size() + number.size(), ' ') +
         " | " + underline(shown, at, span.length, hint);
}

std::string point_at_override(const std::string& override_text, std::size_t column,
                              std::size_t length, const std::string& message,
                              const std::string& hint) {
  const std::string shown = clip(one_line(override_text), column);
  return "override: error: " + message + "\n     | " + shown + "\n     | " +
         underline(shown, column, length, hint);
}

std::string one_line(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  return text;
}

std::shared_ptr<const Deck::State> check_deck(const std::string& text, const std::string& name,
                                              const Schema& schema,
                                              const std::vector<std::string>& overrides) {
  Checker checker(text, name, schema);
  checker.file();
  for (const std::string& override_text : overrides) checker.override_with(override_text);
  return checker.finish();
}

}  // namespace kokomoe::detail
