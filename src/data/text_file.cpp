// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "data/text_file.hpp"

#include "kokomoe/core/error.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

namespace kokomoe::detail {

MappedFile::MappedFile(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const auto refuse = [&](const std::string& why) {
    if (file >= 0) ::close(file);
    throw InputError(path + ": error: " + why);
  };
  if (file < 0 && errno == ENOENT) refuse("file not found");
  if (file < 0) refuse(std::string("cannot be read: ") + std::strerror(errno));
  struct stat status;
  if (::fstat(file, &status) != 0) refuse(std::strerror(errno));
  if (S_ISDIR(status.st_mode)) refuse("this is a folder, not a file");
  if (!S_ISREG(status.st_mode)) refuse("not a regular file");
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ > 0) {
    void* const data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    if (data == MAP_FAILED) refuse(std::string("cannot be mapped: ") + std::strerror(errno));
    data_ = static_cast<char*>(data);
  }
  ::close(file);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile open_text(const std::string& path) {
  MappedFile file(path);
  if (file.size() == 0) throw InputError(path + ": error: the file is empty");
  return file;
}

namespace {

/// Length of the UTF-8 character at `at`, or 0 (RFC 3629: no overlong forms, no surrogates).
std::size_t character_length(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u;
  };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xc2 && first < 0xe0   ? 2
                             : first >= 0xe0 && first < 0xf0 ? 3
                             : first >= 0xf0 && first < 0xf5 ? 4
                                                             : 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  const unsigned second = byte(1);
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second >= 0xa0) ||
      (first == 0xf0 && second < 0x90) || (first == 0xf4 && second >= 0x90))
    return 0;
  return length;
}

}  // namespace

void require_utf8(const std::string& path, std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = character_length(text, at);
    if (length == 0) {
      const auto line =
          std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n');
      throw InputError(path + ":" + std::to_string(line + 1) + ": error: not UTF-8: byte " +
                       std::to_string(at) + " of the file starts no character");
    }
    at += length;
  }
}

namespace {
constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";
}

std::string_view without_mark(std::string_view text) {
  if (text.starts_with(byte_order_mark)) text.remove_prefix(byte_order_mark.size());
  return text;
}

std::string without_returns(std::string_view text) {
  std::string kept;
  kept.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i)
    if (text[i] != '\r' || (i + 1 < text.size() && text[i + 1] != '\n')) kept += text[i];
  return kept;
}

bool differs_in_form(std::string_view text, TextForm form) {
  return form == TextForm::lines && (text.starts_with(byte_order_mark) || text.ends_with('\r') ||
                                     text.find("\r\n") != text.npos);
}

void replace_file_with(const std::string& path, const std::string& bytes) {
  // Two runs may fill one cache at once: each writes its own file.
  const std::string aside = path + "." + std::to_string(::getpid()) + ".tmp";
  {
    std::ofstream file(aside, std::ios::binary | std::ios::trunc);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    file.close();
    if (!file) fail(aside, "cannot be written");
  }
  std::filesystem::rename(aside, path);
}

}  // namespace kokomoe::detail
