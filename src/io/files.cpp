// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/files.hpp"

#include "kokomoe/core/error.hpp"

#include <fcntl.h>
#include <unistd.h>

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

std::string write_problem(const std::string& path) {
  std::error_code ignored;
  const int mode = std::filesystem::is_directory(path, ignored) ? R_OK | W_OK | X_OK : R_OK | W_OK;
  return ::faccessat(AT_FDCWD, path.c_str(), mode, AT_EACCESS) == 0 ? "" : std::strerror(errno);
}

void make_writable_folder(const std::string& path, const std::string& what) {
  std::error_code code;
  std::filesystem::create_directories(path, code);
  if (code)
    throw InputError(path + ": error: the " + what + " cannot be made: " + code.message());
  const std::string problem = write_problem(path);
  if (!problem.empty())
    throw InputError(path + ": error: the " + what + " cannot be written to: " + problem);
}

}  // namespace kokomoe::detail
