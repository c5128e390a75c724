// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/router_options.hpp"

#include "kokomoe/core/error.hpp"

#include <algorithm>

namespace kokomoe {

namespace {

const char* type_name(const OptionValue& value) {
  constexpr const char* names[] = {"an integer", "a real number", "a boolean", "a string"};
  return names[value.index()];
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

const OptionValue& RouterOptions::find(const std::string& name) const {
  const auto found = values_.find(name);
  if (found == values_.end()) throw InputError("router option \"" + name + "\" is not set");
  return found->second;
}

std::int64_t RouterOptions::integer(const std::string& name) const {
  if (const auto* value = std::get_if<std::int64_t>(&find(name))) return *value;
  throw InputError("router option \"" + name + "\" is " + type_name(find(name)) +
                   ", not an integer");
}

double RouterOptions::real(const std::string& name) const {
  const OptionValue& value = find(name);
  if (const auto* real = std::get_if<double>(&value)) return *real;
  if (const auto* integer = std::get_if<std::int64_t>(&value)) return static_cast<double>(*integer);
  throw InputError("router option \"" + name + "\" is " + type_name(value) + ", not a real number");
}

bool RouterOptions::boolean(const std::string& name) const {
  if (const auto* value = std::get_if<bool>(&find(name))) return *value;
  throw InputError("router option \"" + name + "\" is " + type_name(find(name)) +
                   ", not a boolean");
}

std::string RouterOptions::text(const std::string& name) const {
  if (const auto* value = std::get_if<std::string>(&find(name))) return *value;
  throw InputError("router option \"" + name + "\" is " + type_name(find(name)) + ", not a string");
}

RouterOptions RouterOptions::completed(const std::string& router,
                                       const std::vector<RouterOption>& known) const {
  RouterOptions result;
  std::vector<std::string> names;
  for (const RouterOption& option : known) {
    result.set(option.name, option.default_value);
    names.push_back(option.name);
  }
  for (const auto& [name, given] : values_) {
    const auto option = std::find_if(known.begin(), known.end(),
                                     [&](const RouterOption& o) { return o.name == name; });
    const std::string where = "router \"" + router + "\": option \"" + name + "\"";
    if (option == known.end()) {
      const std::string nearest = nearest_name(name, names);
      throw InputError(where + " is not known" +
                       (nearest.empty() ? "; it takes: " + joined(names)
                                        : "; did you mean \"" + nearest + "\"?"));
    }
    OptionValue value = given;
    if (std::holds_alternative<double>(option->default_value) &&
        std::holds_alternative<std::int64_t>(value))
      value = static_cast<double>(std::get<std::int64_t>(value));
    if (value.index() != option->default_value.index())
      throw InputError(where + " must be " + type_name(option->default_value) + ", not " +
                       type_name(value));
    double number = 0;
    if (const auto* real = std::get_if<double>(&value)) number = *real;
    if (const auto* integer = std::get_if<std::int64_t>(&value))
      number = static_cast<double>(*integer);
    if (value.index() <= 1 && !(number >= option->minimum && number <= option->maximum))
      throw InputError(where + " is " + std::to_string(number) + ", must lie in [" +
                       std::to_string(option->minimum) + ", " + std::to_string(option->maximum) +
                       "]");
    if (const auto* text = std::get_if<std::string>(&value);
        text != nullptr && !option->choices.empty() &&
        std::find(option->choices.begin(), option->choices.end(), *text) == option->choices.end())
      throw InputError(where + " is \"" + *text + "\": choose " + joined(option->choices));
    result.set(name, std::move(value));
  }
  return result;
}

}  // namespace kokomoe
