// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "io/toml_reader.hpp"
#include "kokomoe/io/deck.hpp"

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace kokomoe {

namespace detail {

enum class Origin { default_value, file, override_text };

struct Setting {
  KeySpec::Value value;
  Origin origin = Origin::default_value;
  TextSpan value_span;        ///< in the file, or in override_text
  std::string override_text;  ///< "section/key=value"
};

}  // namespace detail

struct Deck::State {
  std::string name;
  std::vector<std::string> lines;
  Schema schema;
  std::map<std::string, detail::Setting> settings;
};

namespace detail {

/// Everything checked; throws InputError with all errors.
std::shared_ptr<const Deck::State> check_deck(const std::string& text, const std::string& name,
                                              const Schema& schema,
                                              const std::vector<std::string>& overrides);

/// "name:line:column: error: message", the line, and a caret with `hint`.
std::string point_at(const std::string& name, const std::vector<std::string>& lines,
                     const TextSpan& span, const std::string& message, const std::string& hint);
std::string point_at_override(const std::string& override_text, std::size_t column,
                              std::size_t length, const std::string& message,
                              const std::string& hint);

/// Shortest text that reads back as the same number.
std::string shortest(double value);
/// Line ends as spaces.
std::string one_line(std::string text);

}  // namespace detail
}  // namespace kokomoe
