// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/io/deck.hpp"

#include "io/deck_state.hpp"
#include "io/files.hpp"
#include "kokomoe/core/error.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

namespace kokomoe {

namespace {

// toml11 takes time by the square of a text's length: some seconds for this much.
constexpr std::size_t largest_deck = std::size_t(128) << 10;

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      constexpr const char* digits = "0123456789abcdef";
      result += "\\u00";
      result += digits[static_cast<unsigned char>(c) >> 4];
      result += digits[c & 15];
    } else {
      result += c;
    }
  }
  return result + "\"";
}

std::string toml_text(const KeySpec::Value& value) {
  struct Writer {
    std::string operator()(std::int64_t v) const { return std::to_string(v); }
    std::string operator()(double v) const {
      std::string result = detail::shortest(v);
      // An integer in TOML is not a real number.
      if (result.find_first_of(".en") == std::string::npos) result += ".0";
      return result;
    }
    std::string operator()(bool v) const { return v ? "true" : "false"; }
    std::string operator()(const std::string& v) const { return quoted(v); }
    std::string operator()(const std::vector<std::string>& v) const {
      std::string result = "[";
      for (const std::string& item : v) result += (result.size() > 1 ? ", " : "") + quoted(item);
      return result + "]";
    }
    std::string operator()(const std::vector<double>& v) const {
      std::string result = "[";
      for (const double item : v) {
        // Short as integers, where those have the same value: not -0, nothing large.
        const bool short_form = std::abs(item) < 1e15 && !(item == 0 && std::signbit(item));
        result += (result.size() > 1 ? ", " : "");
        result += short_form ? detail::shortest(item) : (*this)(item);
      }
      return result + "]";
    }
  };
  return std::visit(Writer{}, value);
}

template <class T>
const T& get(const Deck::State& state, const std::string& key) {
  const auto found = state.settings.find(key);
  if (found == state.settings.end())
    fail("Deck", "the program asks for unknown key \"" + key + "\"");
  const T* value = std::get_if<T>(&found->second.value);
  if (value == nullptr)
    fail("Deck", "the program asks for \"" + key + "\", which is " +
                     state.schema.find(key)->type_name() + ", as another type");
  return *value;
}

}  // namespace

namespace detail {

std::string shortest(double value) {
  char text[40];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  return {text, end};
}

}  // namespace detail

Deck::Deck(std::shared_ptr<const State> state) : state_(std::move(state)) {}

Deck Deck::load(const std::string& path, const Schema& schema,
                const std::vector<std::string>& overrides) {
  return parse(detail::read_input_file(path, "deck", largest_deck), path, schema, overrides);
}

Deck Deck::parse(const std::string& text, const std::string& name, const Schema& schema,
                 const std::vector<std::string>& overrides) {
  // Decks in checkpoints come this way.
  if (text.size() > largest_deck)
    throw InputError(name + ": error: larger than " + std::to_string(largest_deck) +
                     " bytes: this is no deck");
  return Deck(detail::check_deck(text, name, schema, overrides));
}

bool Deck::file_has(const std::string& path, const std::string& section) {
  try {
    const std::string text = detail::read_input_file(path, "deck", largest_deck);
    const std::vector<detail::TomlItem> items = detail::read_toml(text, path);
    return std::any_of(items.begin(), items.end(), [&](const detail::TomlItem& item) {
      return item.kind == detail::TomlItem::Kind::table && item.path == section;
    });
  } catch (const InputError&) {
    return false;
  } catch (const detail::TomlSyntaxError&) {
    return false;
  }
}

std::int64_t Deck::integer(const std::string& key) const {
  return get<std::int64_t>(*state_, key);
}
double Deck::real(const std::string& key) const {
  return get<double>(*state_, key);
}
bool Deck::boolean(const std::string& key) const {
  return get<bool>(*state_, key);
}
const std::string& Deck::text(const std::string& key) const {
  return get<std::string>(*state_, key);
}
const std::vector<double>& Deck::numbers(const std::string& key) const {
  return get<std::vector<double>>(*state_, key);
}
const std::vector<std::string>& Deck::list(const std::string& key) const {
  return get<std::vector<std::string>>(*state_, key);
}

bool Deck::given(const std::string& key) const {
  const auto found = state_->settings.find(key);
  return found != state_->settings.end() && found->second.origin != detail::Origin::default_value;
}

bool Deck::overridden(const std::string& key) const {
  const auto found = state_->settings.find(key);
  return found != state_->settings.end() && found->second.origin == detail::Origin::override_text;
}

std::string Deck::toml(const std::string& key) const {
  const auto found = state_->settings.find(key);
  if (found == state_->settings.end())
    fail("Deck", "the program asks for unknown key \"" + key + "\"");
  return toml_text(found->second.value);
}

bool Deck::known(const std::string& key) const {
  return state_->schema.find(key) != nullptr;
}

const std::string& Deck::name() const {
  return state_->name;
}

std::string Deck::effective() const {
  std::string result;
  std::vector<std::string> sections;  // in the schema's order, the top level first
  const auto section_of = [](const std::string& name) {
    const auto slash = name.rfind('/');
    return slash == std::string::npos ? std::string() : name.substr(0, slash);
  };
  sections.emplace_back();
  for (const KeySpec& key : state_->schema.keys()) {
    const std::string section = section_of(key.name);
    if (std::find(sections.begin(), sections.end(), section) == sections.end())
      sections.push_back(section);
  }
  for (const std::string& section : sections) {
    if (!section.empty()) {
      std::string dotted = section;
      std::replace(dotted.begin(), dotted.end(), '/', '.');
      if (!result.empty()) result += "\n";
      result += "[" + dotted + "]\n";
    }
    for (const KeySpec& key : state_->schema.keys()) {
      if (section_of(key.name) != section) continue;
      const detail::Setting& setting = state_->settings.at(key.name);
      if (key.hidden && setting.origin == detail::Origin::default_value) continue;
      // A required key has no default: without it there would be no deck.
      std::string line = section.empty() ? key.name : key.name.substr(section.size() + 1);
      line += " = " + toml_text(setting.value);
      if (setting.origin == detail::Origin::file)
        line +=
            "  # " + detail::one_line(state_->name) + ":" + std::to_string(setting.value_span.line);
      else
        line += setting.origin == detail::Origin::override_text ? "  # override" : "  # default";
      result += line + "\n";
    }
  }
  return result;
}

void Deck::refuse(const std::string& key, const std::string& message) const {
  const auto found = state_->settings.find(key);
  if (found == state_->settings.end()) throw InputError(state_->name + ": error: " + message);
  const detail::Setting& setting = found->second;
  switch (setting.origin) {
    case detail::Origin::file:
      throw InputError(detail::point_at(state_->name, state_->lines, setting.value_span,
                                        "\"" + key + "\": " + message, ""));
    case detail::Origin::override_text:
      throw InputError(detail::point_at_override(setting.override_text, setting.value_span.column,
                                                 setting.value_span.length,
                                                 "\"" + key + "\": " + message, ""));
    default:
      throw InputError(state_->name + ": error: \"" + key + "\" (default " +
                       toml_text(setting.value) + "): " + message);
  }
}

}  // namespace kokomoe
