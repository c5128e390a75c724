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

using OptionValue = std::variant<std::int64_t, double, bool, std::string>;

/// An option that a router takes, as `moe/NAME` in a deck.
struct RouterOption {
  std::string name;
  OptionValue default_value;
  std::string doc;
  double minimum = std::numeric_limits<double>::lowest();
  double maximum = std::numeric_limits<double>::max();
  std::vector<std::string> choices{};  ///< for strings; empty = any
};

/// Values by name. Asking for what was not set gives the default of the router's own list.
class RouterOptions {
 public:
  RouterOptions() = default;
  explicit RouterOptions(std::map<std::string, OptionValue> values) : values_(std::move(values)) {}

  void set(const std::string& name, OptionValue value) { values_[name] = std::move(value); }
  const std::map<std::string, OptionValue>& values() const { return values_; }

  /// Throws InputError when the option is unknown or has another type.
  std::int64_t integer(const std::string& name) const;
  double real(const std::string& name) const;
  bool boolean(const std::string& name) const;
  std::string text(const std::string& name) const;

  /// These values over the defaults of `known`; throws InputError for unknown names (with the
  /// nearest), types, ranges and choices.
  RouterOptions completed(const std::string& router, const std::vector<RouterOption>& known) const;

 private:
  const OptionValue& find(const std::string& name) const;
  std::map<std::string, OptionValue> values_;
};

}  // namespace kokomoe
