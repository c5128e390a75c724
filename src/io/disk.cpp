// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/disk.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/io/checkpoint.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

namespace kokomoe::detail {

CheckpointHook checkpoint_hook = nullptr;
CheckpointTuning checkpoint_tuning;

namespace {

[[noreturn]] void fail_errno(const std::string& path, const char* what) {
  const int code = errno;
  fail(path, std::string(what) + ": " + std::strerror(code));
}

/// A file that is written, whatever is thrown closed.
class Output {
 public:
  Output(const std::string& path, int flags)
      : path_(path), file_(::open(path.c_str(), O_WRONLY | O_CLOEXEC | flags, 0666)) {
    if (file_ < 0) fail_errno(path_, "cannot be written");
  }
  ~Output() {
    if (file_ >= 0) ::close(file_);
  }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  void resize(off_t bytes) {
    if (::ftruncate(file_, bytes) != 0) fail_errno(path_, "cannot be written");
  }
  void write(const char* data, std::size_t bytes, off_t offset) {
    while (bytes > 0) {
      const ssize_t count = ::pwrite(file_, data, bytes, offset);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail_errno(path_, "cannot be written");
      data += count;
      offset += count;
      bytes -= static_cast<std::size_t>(count);
    }
  }
  void close() {
    if (::close(std::exchange(file_, -1)) != 0) fail_errno(path_, "cannot be written");
  }

 private:
  std::string path_;
  int file_;
};

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

/// Where nothing can be reserved: ENOSPC when the disk has not got the room that a file's holes
/// will take, else 0. Some file systems do not know what they have.
int free_space_code(int file, const struct stat& status) {
  struct statvfs disk = {};
  if (::fstatvfs(file, &disk) != 0 || disk.f_blocks == 0) return 0;
  const auto room = static_cast<std::uint64_t>(disk.f_bavail) * disk.f_frsize;
  const auto held = static_cast<std::uint64_t>(status.st_blocks) * 512;
  const auto size = static_cast<std::uint64_t>(status.st_size);
  return size > held && size - held > room ? ENOSPC : 0;
}

}  // namespace

void announce(const char* operation, const std::string& path) {
  if (checkpoint_hook != nullptr) checkpoint_hook(operation, path);
}

void write_file(const std::string& path, const std::string& text) {
  announce("write", path);
  Output file(path, O_CREAT | O_TRUNC);
  file.write(text.data(), text.size(), 0);
  file.close();
  sync_file(path);
}

void require_file_size(const std::string& path, std::uint64_t bytes) {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur >= bytes) return;
  errno = EFBIG;
  fail_errno(path, "cannot be written");
}

MemoryFile::MemoryFile() {
#ifdef MFD_CLOEXEC
  file_ = ::memfd_create("kokomoe state.h5", MFD_CLOEXEC);
  if (file_ >= 0 && ::access(path().c_str(), R_OK | W_OK) != 0)  // no /proc
    ::close(std::exchange(file_, -1));
#endif
}

MemoryFile::~MemoryFile() {
  if (file_ >= 0) ::close(file_);
}

std::string MemoryFile::path() const {
  return "/proc/self/fd/" + std::to_string(file_);
}

void MemoryFile::copy_to(const std::string& path) const {
#ifdef MFD_CLOEXEC
  const off_t size = ::lseek(file_, 0, SEEK_END);
  Output file(path, O_CREAT | O_TRUNC);
  file.resize(size);
  reserve_file(path);
  std::vector<char> buffer(1 << 16);
  off_t at = ::lseek(file_, 0, SEEK_DATA);
  while (at >= 0 && at < size) {
    const off_t hole = ::lseek(file_, at, SEEK_HOLE);
    while (at < hole) {
      const ssize_t count =
          ::pread(file_, buffer.data(), std::min<std::size_t>(buffer.size(), hole - at), at);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) fail_errno(path, "cannot be copied from memory");
      file.write(buffer.data(), static_cast<std::size_t>(count), at);
      at += count;
    }
    at = ::lseek(file_, at, SEEK_DATA);  // -1 when there is none
  }
  file.close();
#else
  fail(path, "no memory to copy from");
#endif
}

void sync_file(const std::string& path) {
  sync(path, O_RDONLY);
}

void reserve_file(const std::string& path) {
  announce("reserve", path);
#ifdef __linux__  // posix_fallocate would write to every block where fallocate is not there
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) fail_errno(path, "cannot be opened");
  struct stat status = {};
  int result = ::fstat(file, &status);
  if (result == 0 && status.st_size > 0) do {
      result = ::fallocate(file, 0, 0, status.st_size);
    } while (result != 0 && errno == EINTR);
  int code = result == 0 ? 0 : errno;
  if (code == EOPNOTSUPP || code == ENOSYS || code == EINVAL) code = free_space_code(file, status);
  ::close(file);
  if (code == 0) return;
  errno = code;
  fail_errno(path, ("cannot have its " + std::to_string(status.st_size) + " bytes").c_str());
#endif
}

void sync_folder(const std::string& path) {
  sync(path, O_RDONLY | O_DIRECTORY);
}

void rename_path(const std::string& from, const std::string& to) {
  announce("rename", to);
  if (std::rename(from.c_str(), to.c_str()) != 0) fail_errno(to, "cannot be renamed to");
}

void replace_file(const std::string& path, const std::string& text) {
  try {
    write_file(path + ".tmp", text);
    rename_path(path + ".tmp", path);
  } catch (const Error&) {
    ::unlink((path + ".tmp").c_str());  // half of it, on a disk that is full
    throw;
  }
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
