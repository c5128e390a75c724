// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/disk.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/io/checkpoint.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

namespace kokomoe::detail {

CheckpointHook checkpoint_hook = nullptr;
CheckpointTuning checkpoint_tuning;

namespace {

[[noreturn]] void fail_errno(const std::string& path, const char* what) {
  const int code = errno;
  fail(path, std::string(what) + ": " + std::strerror(code));
}

void sync(const std::string& path, int flags) {
  announce("sync", path);
  const int file = ::open(path.c_str(), flags | O_CLOEXEC);
  if (file < 0) fail_errno(path, "cannot be opened to sync");
  const int result = ::fsync(file);
  const int code = errno;
  ::close(file);
  // Some file systems cannot sync a folder; their renames are then as safe as they get.
  if (result != 0 && code != EINVAL && code != ENOTSUP) {
    errno = code;
    fail_errno(path, "cannot be synced");
  }
}

}  // namespace

void announce(const char* operation, const std::string& path) {
  if (checkpoint_hook != nullptr) checkpoint_hook(operation, path);
}

void write_file(const std::string& path, const std::string& text) {
  announce("write", path);
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0) fail_errno(path, "cannot be written");
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t count = ::write(file, text.data() + done, text.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const int code = errno;
      ::close(file);
      errno = code;
      fail_errno(path, "cannot be written");
    }
    done += static_cast<std::size_t>(count);
  }
  if (::close(file) != 0) fail_errno(path, "cannot be written");
  sync_file(path);
}

void sync_file(const std::string& path) {
  sync(path, O_RDONLY);
}

void sync_folder(const std::string& path) {
  sync(path, O_RDONLY | O_DIRECTORY);
}

void rename_path(const std::string& from, const std::string& to) {
  announce("rename", to);
  if (std::rename(from.c_str(), to.c_str()) != 0) fail_errno(to, "cannot be renamed to");
}

void replace_file(const std::string& path, const std::string& text) {
  write_file(path + ".tmp", text);
  rename_path(path + ".tmp", path);
}

void remove_folder(const std::string& path) {
  std::string aside = path;
  if (!aside.ends_with(".tmp")) {
    aside += ".tmp";
    rename_path(path, aside);
  }
  announce("remove", aside);
  std::error_code code;
  std::filesystem::remove_all(aside, code);
  if (code) fail(aside, "cannot be removed: " + code.message());
}

}  // namespace kokomoe::detail
