// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace kokomoe {

/// Appends JSON objects to a file, one a line, each written at once by end(). Numbers keep every
/// bit (shortest text that reads back equal); NaN and infinities become null. After the first rows
/// nothing is allocated.
///
///     log.begin().field("step", step).field("loss", loss).end();
class JsonLines {
 public:
  /// Writes nowhere: every call is accepted.
  JsonLines() = default;
  /// Appends to `path`, made when missing. Throws Error when that fails.
  explicit JsonLines(const std::string& path);
  ~JsonLines();
  JsonLines(JsonLines&& other) noexcept;
  JsonLines& operator=(JsonLines&& other) noexcept;
  JsonLines(const JsonLines&) = delete;
  JsonLines& operator=(const JsonLines&) = delete;

  JsonLines& begin();
  JsonLines& field(std::string_view key, double value);
  JsonLines& field(std::string_view key, std::int64_t value);
  JsonLines& field(std::string_view key, int value) {
    return field(key, static_cast<std::int64_t>(value));
  }
  JsonLines& field(std::string_view key, bool value);
  JsonLines& field(std::string_view key, std::string_view value);
  JsonLines& field(std::string_view key, const char* value) {
    return field(key, std::string_view(value));
  }
  JsonLines& field(std::string_view key, std::span<const double> values);
  /// Rows of so many values each: an array of arrays.
  JsonLines& field(std::string_view key, std::span<const double> values, std::size_t columns);
  JsonLines& field(std::string_view key, std::span<const std::int64_t> values);
  /// Writes the line. Throws Error naming the file when the disk is full or gone; the file then
  /// ends with the line before, and later lines may succeed.
  void end();

  /// Removes rows whose "step" is above `step`, and lines that are no JSON object (the torn end of
  /// a killed run), by writing aside and renaming. A missing file is fine.
  static void truncate_after(const std::string& path, std::int64_t step);

 private:
  void cut_torn();
  void key(std::string_view name);
  void list(std::span<const double> values);
  void number(double value);
  void number(std::int64_t value);
  void quoted(std::string_view text);

  int file_ = -1;
  std::int64_t torn_ = -1;  ///< where half a line begins that a failure left; -1: nowhere
  std::string path_;
  std::string line_;
};

}  // namespace kokomoe
