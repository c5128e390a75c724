// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/io/schema.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace kokomoe {

/// An input deck: TOML sections of keys, checked against a Schema, with overrides on top.
/// Every error is an InputError in the form that compilers use, all of a deck's errors at once:
///
///     inputs/x.toml:12:1: error: unknown key "moe/experst"
///       12 | experst = 4
///          | ^~~~~~~ did you mean "moe/experts"?
///
/// Copies share one immutable state.
class Deck {
 public:
  /// Reads a file. `overrides`: "section/key=value" in TOML's value syntax, where a bare word is
  /// text, so `moe/router=switch` needs no quotes; later ones win. A list's key also takes one
  /// bare item. Integers are taken where a real number is wanted, not the reverse; NaN and
  /// infinities never.
  static Deck load(const std::string& path, const Schema& schema,
                   const std::vector<std::string>& overrides = {});
  /// The same for text; `name` stands for the file in messages.
  static Deck parse(const std::string& text, const std::string& name, const Schema& schema,
                    const std::vector<std::string>& overrides = {});

  /// True when the file has the section: whose schema a deck wants. False, too, where the file
  /// cannot be read or is no TOML, which load() will say.
  static bool file_has(const std::string& path, const std::string& section);

  /// The value of a key of this type; Error when the schema has none (a mistake in the program).
  std::int64_t integer(const std::string& key) const;
  double real(const std::string& key) const;
  bool boolean(const std::string& key) const;
  const std::string& text(const std::string& key) const;
  const std::vector<std::string>& list(const std::string& key) const;
  const std::vector<double>& numbers(const std::string& key) const;

  /// True when the deck or an override sets the key.
  bool given(const std::string& key) const;
  /// True when an override sets the key.
  bool overridden(const std::string& key) const;
  /// A key's value as TOML writes it.
  std::string toml(const std::string& key) const;
  /// True when the schema has the key.
  bool known(const std::string& key) const;

  /// TOML text of every value, defaults too, with its origin as a comment; reading it again gives
  /// the same values.
  std::string effective() const;

  /// The deck's file name as given.
  const std::string& name() const;

  /// Throws InputError that points at the key's value: in the file, in the override, or, for a
  /// default, by name.
  [[noreturn]] void refuse(const std::string& key, const std::string& message) const;

  struct State;

 private:
  explicit Deck(std::shared_ptr<const State> state);
  std::shared_ptr<const State> state_;
};

}  // namespace kokomoe
