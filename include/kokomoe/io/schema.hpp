// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace kokomoe {

/// One key that a deck may set: its type is the type of its default.
struct KeySpec {
  using Value = std::variant<std::int64_t, double, bool, std::string, std::vector<std::string>,
                             std::vector<double>>;

  std::string name;  ///< "section/key"; "key" alone for the top level
  Value default_value{};
  std::string doc;
  bool must_be_given = false;
  bool hidden = false;  ///< not written among the effective values unless it is given
  double minimum = -std::numeric_limits<double>::infinity();  ///< numbers, each of a list; inclusive
  double maximum = std::numeric_limits<double>::infinity();   ///< numbers; inclusive
  std::vector<std::string> choices;                           ///< text and list items; empty = any

  static KeySpec integer(std::string name, std::int64_t default_value, std::string doc);
  static KeySpec real(std::string name, double default_value, std::string doc);
  static KeySpec boolean(std::string name, bool default_value, std::string doc);
  static KeySpec text(std::string name, std::string default_value, std::string doc);
  static KeySpec list(std::string name, std::vector<std::string> default_value, std::string doc);

  static KeySpec numbers(std::string name, std::vector<double> default_value, std::string doc);

  /// Chainable: KeySpec::integer("train/steps", 100, "updates").range(1, 1e9)
  KeySpec range(double least, double most) &&;
  KeySpec at_least(double least) &&;
  KeySpec choice(std::vector<std::string> allowed) &&;
  KeySpec required() &&;
  KeySpec unlisted() &&;  ///< hidden

  /// "an integer", "a real number", "true or false", "text", "a list of text", "a list of
  /// numbers"
  const char* type_name() const;
};

/// The keys of a program, in the order in which they are documented.
class Schema {
 public:
  /// Adds a key. A name that is there already with the same type is merged: the first default
  /// stays, the range is widened, new choices are appended. Throws Error on another type.
  Schema& add(KeySpec key);
  Schema& add(const Schema& other);

  const std::vector<KeySpec>& keys() const { return keys_; }
  /// Null when there is none.
  const KeySpec* find(const std::string& name) const;

 private:
  std::vector<KeySpec> keys_;
  std::map<std::string, std::size_t> index_;
};

}  // namespace kokomoe
