// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

namespace kokomoe {

/// Something failed while running (exit code 1).
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The caller's usage, deck, data or checkpoint is wrong, found before any work (exit code 2).
class InputError : public Error {
 public:
  using Error::Error;
};

/// A loss or gradient that is not finite, found alike on every rank.
class NotFinite : public Error {
 public:
  using Error::Error;
};

/// Throws Error("<where>: <message>").
[[noreturn]] void fail(const std::string& where, const std::string& message);

/// Throws Error naming both shapes: "<where>: <name> has shape (r, c), expected (R, C)".
[[noreturn]] void fail_shape(const std::string& where, const std::string& name, std::size_t rows,
                             std::size_t columns, std::size_t expected_rows,
                             std::size_t expected_columns);

/// Throws Error: rows must follow each other without padding.
[[noreturn]] void fail_stride(const std::string& where, const std::string& name, std::size_t stride,
                              std::size_t columns);

/// Checks a rank-2 view's extents (see fail_shape) and that its rows lie without padding, since
/// GEMMs are told no stride. `where` and `name` are string literals.
template <class View>
void require_shape(const char* where, const char* name, const View& view, std::size_t rows,
                   std::size_t columns) {
  if (view.extent(0) != rows || view.extent(1) != columns)
    fail_shape(where, name, view.extent(0), view.extent(1), rows, columns);
  if (rows > 1 && static_cast<std::size_t>(view.stride(0)) != columns)
    fail_stride(where, name, static_cast<std::size_t>(view.stride(0)), columns);
}

/// The nearest of `candidates` to `name` by edit distance, or "" when none is near.
template <class Range>
std::string nearest_name(const std::string& name, const Range& candidates);

/// Levenshtein distance, for "did you mean".
std::size_t edit_distance(const std::string& a, const std::string& b);

template <class Range>
std::string nearest_name(const std::string& name, const Range& candidates) {
  std::string best;
  std::size_t best_distance = name.size() / 2 + 2;
  for (const auto& candidate : candidates) {
    const std::size_t distance = edit_distance(name, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

}  // namespace kokomoe
