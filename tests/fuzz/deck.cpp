// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// An input is a deck's text; lines after a line "%%" are overrides.
#include "kokomoe/io/deck.hpp"
#include "fuzz/targets.hpp"
#include "kokomoe/core/error.hpp"

#include <cstring>
#include <optional>
#include <variant>

namespace kokomoe::fuzz {

namespace {

/// Every type, at the top level and in sections, with and without bounds, choices and a default.
Schema make_schema() {
  Schema schema;
  schema.add(KeySpec::integer("top", 1, "outside of sections"))
      .add(KeySpec::text("title", "a \"b\" \\ \n\x7f", "a default that needs escapes"));
  schema.add(KeySpec::list("data/train", {}, "text files").required())
      .add(KeySpec::list("data/kinds", {"a"}, "of three").choice({"a", "b", "c d"}))
      .add(KeySpec::text("data/cache", "data/cache", "folder"));
  schema.add(KeySpec::integer("train/steps", 100, "updates").range(0, 4294967295.0))
      .add(KeySpec::integer("train/any", -5, "an integer"))
      .add(KeySpec::real("train/rate", 1e-3, "any number"))
      .add(KeySpec::real("train/share", 0.5, "a share").range(0, 1))
      .add(KeySpec::boolean("train/tied", true, "or not"))
      .add(KeySpec::text("train/kind", "one", "of two").choice({"one", "two"}))
      .add(KeySpec::text("train/hidden", "", "not written").unlisted());
  schema.add(KeySpec::numbers("train/inner/scales", {1, 0.5}, "any numbers"))
      .add(KeySpec::numbers("train/inner/experts", {3, 6}, "few").range(2, 64))
      .add(KeySpec::integer("train/inner/deep/er", 0, "three floors down").at_least(-9));
  return schema;
}

const Schema& schema() {
  static const Schema result = make_schema();
  return result;
}

bool same_bits(double a, double b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

bool same_value(const Deck& a, const Deck& b, const KeySpec& key) {
  switch (key.default_value.index()) {
    case 0:
      return a.integer(key.name) == b.integer(key.name);
    case 1:
      return same_bits(a.real(key.name), b.real(key.name));
    case 2:
      return a.boolean(key.name) == b.boolean(key.name);
    case 3:
      return a.text(key.name) == b.text(key.name);
    case 4:
      return a.list(key.name) == b.list(key.name);
    default: {
      const auto &x = a.numbers(key.name), &y = b.numbers(key.name);
      if (x.size() != y.size()) return false;
      for (std::size_t i = 0; i < x.size(); ++i)
        if (!same_bits(x[i], y[i])) return false;
      return true;
    }
  }
}

void check_refusals(const Deck& deck) {
  for (const KeySpec& key : schema().keys()) {
    try {
      deck.refuse(key.name, "no");
    } catch (const InputError&) {
    }
  }
}

}  // namespace

void deck(const std::uint8_t* data, std::size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  const std::size_t split = input.find("\n%%\n");
  const std::string text = split == std::string::npos ? input : input.substr(0, split + 1);
  std::vector<std::string> overrides;
  if (split != std::string::npos) {
    for (std::size_t begin = split + 4; begin < input.size();) {
      const std::size_t end = std::min(input.find('\n', begin), input.size());
      overrides.push_back(input.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  std::optional<Deck> first;
  try {
    first = Deck::parse(text, "deck.toml", schema(), overrides);
  } catch (const InputError& error) {
    require(error.what()[0] != '\0', "an error says nothing");
    return;
  }
  check_refusals(*first);
  const std::string effective = first->effective();
  std::optional<Deck> second;
  try {
    second = Deck::parse(effective, "effective.toml", schema());
  } catch (const InputError& error) {
    broken("the effective deck is refused:\n" + effective + "\n" + error.what());
  }
  for (const KeySpec& key : schema().keys())
    require(same_value(*first, *second, key),
            key.name + " is " + second->toml(key.name) + " in the effective deck\n" + effective);
}

}  // namespace kokomoe::fuzz
