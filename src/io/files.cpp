// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/files.hpp"

#include "kokomoe/core/error.hpp"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace kokomoe::detail {

std::string read_input_file(const std::string& path, const std::string& what, std::size_t largest) {
  namespace fs = std::filesystem;
  std::error_code code;
  const fs::file_status status = fs::status(path, code);
  if (!fs::exists(status)) throw InputError(path + ": error: " + what + " not found");
  if (fs::is_directory(status)) throw InputError(path + ": error: this is a folder, not a " + what);
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::string text;
  char part[65536];
  while (file && text.size() <= largest) {
    file.read(part, sizeof part);
    text.append(part, static_cast<std::size_t>(file.gcount()));
  }
  if (!file.is_open() || file.bad())
    throw InputError(path + ": error: cannot read this " + what + ": " + std::strerror(errno));
  if (text.size() > largest)
    throw InputError(path + ": error: larger than " + std::to_string(largest) +
                     " bytes: this is no " + what);
  return text;
}

}  // namespace kokomoe::detail
