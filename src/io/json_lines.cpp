// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/io/json_lines.hpp"

#include "io/disk.hpp"
#include "kokomoe/core/error.hpp"

#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

namespace kokomoe {

JsonLines::JsonLines(const std::string& path) : path_(path) {
  file_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (file_ < 0) fail(path, std::string("cannot be written: ") + std::strerror(errno));
  line_.reserve(4096);
}

JsonLines::~JsonLines() {
  if (file_ >= 0) ::close(file_);
}

JsonLines::JsonLines(JsonLines&& other) noexcept
    : file_(std::exchange(other.file_, -1)),
      torn_(other.torn_),
      path_(std::move(other.path_)),
      line_(std::move(other.line_)) {}

JsonLines& JsonLines::operator=(JsonLines&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(torn_, other.torn_);
  std::swap(path_, other.path_);
  std::swap(line_, other.line_);
  return *this;
}

JsonLines& JsonLines::begin() {
  line_.assign("{");
  return *this;
}

JsonLines& JsonLines::field(std::string_view name, double value) {
  key(name);
  number(value);
  return *this;
}

JsonLines& JsonLines::field(std::string_view name, std::int64_t value) {
  key(name);
  number(value);
  return *this;
}

JsonLines& JsonLines::field(std::string_view name, bool value) {
  key(name);
  line_ += value ? "true" : "false";
  return *this;
}

JsonLines& JsonLines::field(std::string_view name, std::string_view value) {
  key(name);
  quoted(value);
  return *this;
}

JsonLines& JsonLines::field(std::string_view name, std::span<const double> values) {
  key(name);
  list(values);
  return *this;
}

JsonLines& JsonLines::field(std::string_view name, std::span<const double> values,
                            std::size_t columns) {
  key(name);
  line_ += '[';
  for (std::size_t i = 0; i + columns <= values.size(); i += columns) {
    if (i > 0) line_ += ", ";
    list(values.subspan(i, columns));
  }
  line_ += ']';
  return *this;
}

JsonLines& JsonLines::field(std::string_view name, std::span<const std::int64_t> values) {
  key(name);
  line_ += '[';
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i > 0) line_ += ", ";
    number(values[i]);
  }
  line_ += ']';
  return *this;
}

void JsonLines::end() {
  line_ += "}\n";
  if (file_ < 0) return;
  cut_torn();
  // One call a line: a killed run tears the last one at most.
  std::size_t done = 0;
  while (done < line_.size()) {
    const ssize_t count = ::write(file_, line_.data() + done, line_.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const int code = errno;
      struct stat status = {};
      if (done > 0 && ::fstat(file_, &status) == 0 && S_ISREG(status.st_mode)) {
        torn_ = status.st_size - static_cast<std::int64_t>(done);
        cut_torn();
      }
      fail(path_, std::string("cannot be written: ") + std::strerror(code));
    }
    done += static_cast<std::size_t>(count);
  }
}

/// The next line must not go on where half a line ends.
void JsonLines::cut_torn() {
  if (torn_ < 0) return;
  if (::ftruncate(file_, torn_) != 0)
    fail(path_, std::string("cannot be cut back: ") + std::strerror(errno));
  torn_ = -1;
}

void JsonLines::key(std::string_view name) {
  if (line_.size() > 1) line_ += ", ";
  quoted(name);
  line_ += ": ";
}

void JsonLines::list(std::span<const double> values) {
  line_ += '[';
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i > 0) line_ += ", ";
    number(values[i]);
  }
  line_ += ']';
}

void JsonLines::number(double value) {
  if (!std::isfinite(value)) {
    line_ += "null";
    return;
  }
  char text[40];
  const char* const end = std::to_chars(text, text + sizeof text, value).ptr;
  line_.append(text, static_cast<std::size_t>(end - text));
  // "100" would come back as an integer.
  if (std::string_view(text, end).find_first_of(".e") == std::string_view::npos) line_ += ".0";
}

void JsonLines::number(std::int64_t value) {
  char text[24];
  line_ += std::string_view(text, std::to_chars(text, text + sizeof text, value).ptr);
}

void JsonLines::quoted(std::string_view text) {
  line_ += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      line_ += '\\';
      line_ += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      line_ += "\\u00";
      line_ += "0123456789abcdef"[static_cast<unsigned char>(c) >> 4];
      line_ += "0123456789abcdef"[c & 15];
    } else {
      line_ += c;
    }
  }
  line_ += '"';
}

void JsonLines::truncate_after(const std::string& path, std::int64_t step) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    if (std::filesystem::exists(path)) fail(path, "cannot be read");
    return;
  }
  std::string kept, line;
  bool changed = false;
  while (std::getline(file, line)) {
    const bool torn = file.eof();  // no newline ends it
    const auto row = nlohmann::json::parse(line, nullptr, false);
    bool keep = row.is_object();
    if (keep && row.contains("step") && row["step"].is_number())
      keep = row["step"].get<double>() <= static_cast<double>(step);
    changed = changed || !keep || torn;
    if (keep) kept += line + "\n";
  }
  if (file.bad()) fail(path, "cannot be read");
  if (changed) detail::replace_file(path, kept);
}

}  // namespace kokomoe
