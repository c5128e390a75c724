// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/io/schema.hpp"

#include "kokomoe/core/error.hpp"

#include <algorithm>
#include <utility>

namespace kokomoe {

namespace {

KeySpec make(std::string name, KeySpec::Value default_value, std::string doc) {
  KeySpec key;
  key.name = std::move(name);
  key.default_value = std::move(default_value);
  key.doc = std::move(doc);
  return key;
}

}  // namespace

KeySpec KeySpec::integer(std::string name, std::int64_t default_value, std::string doc) {
  return make(std::move(name), default_value, std::move(doc));
}
KeySpec KeySpec::real(std::string name, double default_value, std::string doc) {
  return make(std::move(name), default_value, std::move(doc));
}
KeySpec KeySpec::boolean(std::string name, bool default_value, std::string doc) {
  return make(std::move(name), default_value, std::move(doc));
}
KeySpec KeySpec::text(std::string name, std::string default_value, std::string doc) {
  return make(std::move(name), std::move(default_value), std::move(doc));
}
KeySpec KeySpec::list(std::string name, std::vector<std::string> default_value, std::string doc) {
  return make(std::move(name), std::move(default_value), std::move(doc));
}

KeySpec KeySpec::numbers(std::string name, std::vector<double> default_value, std::string doc) {
  return make(std::move(name), std::move(default_value), std::move(doc));
}

KeySpec KeySpec::range(double least, double most) && {
  minimum = least;
  maximum = most;
  return std::move(*this);
}
KeySpec KeySpec::at_least(double least) && {
  minimum = least;
  return std::move(*this);
}
KeySpec KeySpec::choice(std::vector<std::string> allowed) && {
  choices = std::move(allowed);
  return std::move(*this);
}
KeySpec KeySpec::required() && {
  must_be_given = true;
  return std::move(*this);
}

KeySpec KeySpec::unlisted() && {
  hidden = true;
  return std::move(*this);
}

const char* KeySpec::type_name() const {
  constexpr const char* names[] = {"an integer", "a real number", "true or false", "text",
                                   "a list of text", "a list of numbers"};
  return names[default_value.index()];
}

Schema& Schema::add(KeySpec key) {
  const auto found = index_.find(key.name);
  if (found == index_.end()) {
    index_.emplace(key.name, keys_.size());
    keys_.push_back(std::move(key));
    return *this;
  }
  KeySpec& old = keys_[found->second];
  if (old.default_value.index() != key.default_value.index())
    fail("Schema", "\"" + key.name + "\" is " + old.type_name() + " already and cannot become " +
                       key.type_name());
  old.minimum = std::min(old.minimum, key.minimum);
  old.maximum = std::max(old.maximum, key.maximum);
  // An empty list of choices allows everything: merging must not narrow it.
  if (key.choices.empty()) old.choices.clear();
  if (!old.choices.empty())
    for (std::string& choice : key.choices)
      if (std::find(old.choices.begin(), old.choices.end(), choice) == old.choices.end())
        old.choices.push_back(std::move(choice));
  return *this;
}

Schema& Schema::add(const Schema& other) {
  for (const KeySpec& key : other.keys_) add(key);
  return *this;
}

const KeySpec* Schema::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &keys_[found->second];
}

}  // namespace kokomoe
