// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"

#include <algorithm>
#include <vector>

namespace kokomoe {

void fail(const std::string& where, const std::string& message) {
  throw Error(where + ": " + message);
}

void fail_shape(const std::string& where, const std::string& name, std::size_t rows,
                std::size_t columns, std::size_t expected_rows, std::size_t expected_columns) {
  fail(where, name + " has shape (" + std::to_string(rows) + ", " + std::to_string(columns) +
                  "), expected (" + std::to_string(expected_rows) + ", " +
                  std::to_string(expected_columns) + ")");
}

void fail_stride(const std::string& where, const std::string& name, std::size_t stride,
                 std::size_t columns) {
  fail(where, name + " has rows " + std::to_string(stride) + " elements apart, expected " +
                  std::to_string(columns) + ": padded views are not taken");
}

std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substitute = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitute});
    }
  }
  return row[b.size()];
}

}  // namespace kokomoe
