// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// For LD_PRELOAD: kills its process, with SIGKILL, at the n-th operation that would change a run
// folder. So crashes are tested on the program as it is, inside HDF5 and MPI as well.
//
//   KOKOMOE_TEST_UNDER  counts operations on paths that contain this
//   KOKOMOE_TEST_KILL   n, from 1 on; a write is killed when half of it is done. 0: never
//   KOKOMOE_TEST_RANK   only on this rank of Open MPI's
//   KOKOMOE_TEST_LOG    file that gets a line "n operation path" for each
//   KOKOMOE_TEST_RESERVE  "none": as if the file system had no fallocate; "lies": it promises room
//                         that it has not got

#include <aio.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

std::string variable(const char* name) {
  const char* const text = std::getenv(name);
  return text == nullptr ? "" : text;
}

struct Settings {
  std::string under = variable("KOKOMOE_TEST_UNDER");
  std::string log = variable("KOKOMOE_TEST_LOG");
  long kill = std::atol(variable("KOKOMOE_TEST_KILL").c_str());
  bool active =
      !under.empty() && (variable("KOKOMOE_TEST_RANK").empty() ||
                         variable("KOKOMOE_TEST_RANK") == variable("OMPI_COMM_WORLD_RANK"));
};

const Settings& settings() {
  static const Settings value;
  return value;
}

std::string path_of(int file) {
  char text[4096];
  const std::string link = "/proc/self/fd/" + std::to_string(file);
  const ssize_t length = ::readlink(link.c_str(), text, sizeof text);
  return length > 0 ? std::string(text, static_cast<std::size_t>(length)) : "";
}

[[noreturn]] void die() {
  ::kill(::getpid(), SIGKILL);
  for (;;) ::pause();
}

/// Counts an operation; true when it is the one to die at.
bool is_last(const char* operation, const std::string& path) {
  static std::atomic<long> count{0};
  const Settings& s = settings();
  if (!s.active || path.find(s.under) == std::string::npos) return false;
  const long number = ++count;
  if (!s.log.empty()) {
    const std::string line = std::to_string(number) + " " + operation + " " + path + "\n";
    const int file = ::open(s.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    ::syscall(SYS_write, file, line.data(), line.size());
    ::close(file);
  }
  return number == s.kill;
}

void may_die(const char* operation, const std::string& path) {
  if (is_last(operation, path)) die();
}

/// The function of this name that comes after ours.
template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

ssize_t write(int file, const void* data, size_t bytes) {
  static const auto real = next<ssize_t(int, const void*, size_t)>("write");
  if (is_last("write", path_of(file))) {
    real(file, data, bytes / 2);
    die();
  }
  return real(file, data, bytes);
}

ssize_t pwrite(int file, const void* data, size_t bytes, off_t offset) {
  static const auto real = next<ssize_t(int, const void*, size_t, off_t)>("pwrite");
  if (is_last("write", path_of(file))) {
    real(file, data, bytes / 2, offset);
    die();
  }
  return real(file, data, bytes, offset);
}

ssize_t pwrite64(int file, const void* data, size_t bytes, off64_t offset) {
  return pwrite(file, data, bytes, offset);
}

ssize_t writev(int file, const iovec* parts, int count) {
  static const auto real = next<ssize_t(int, const iovec*, int)>("writev");
  if (is_last("write", path_of(file))) {
    real(file, parts, count / 2);
    die();
  }
  return real(file, parts, count);
}

ssize_t pwritev(int file, const iovec* parts, int count, off_t offset) {
  static const auto real = next<ssize_t(int, const iovec*, int, off_t)>("pwritev");
  if (is_last("write", path_of(file))) {
    real(file, parts, count / 2, offset);
    die();
  }
  return real(file, parts, count, offset);
}

int aio_write(aiocb* request) {
  static const auto real = next<int(aiocb*)>("aio_write");
  may_die("write", path_of(request->aio_fildes));
  return real(request);
}

int ftruncate(int file, off_t bytes) noexcept {
  static const auto real = next<int(int, off_t)>("ftruncate");
  may_die("truncate", path_of(file));
  return real(file, bytes);
}

int ftruncate64(int file, off64_t bytes) noexcept {
  return ftruncate(file, bytes);
}

int fallocate(int file, int mode, off_t offset, off_t bytes) {
  static const auto real = next<int(int, int, off_t, off_t)>("fallocate");
  may_die("reserve", path_of(file));
  const std::string kind = variable("KOKOMOE_TEST_RESERVE");
  if (kind == "lies") return 0;
  if (kind == "none") {
    errno = EOPNOTSUPP;
    return -1;
  }
  return real(file, mode, offset, bytes);
}

int fallocate64(int file, int mode, off64_t offset, off64_t bytes) {
  return fallocate(file, mode, offset, bytes);
}

int fsync(int file) {
  static const auto real = next<int(int)>("fsync");
  may_die("sync", path_of(file));
  return real(file);
}

int fdatasync(int file) {
  static const auto real = next<int(int)>("fdatasync");
  may_die("sync", path_of(file));
  return real(file);
}

int rename(const char* from, const char* to) noexcept {
  static const auto real = next<int(const char*, const char*)>("rename");
  may_die("rename", to);
  return real(from, to);
}

int mkdir(const char* path, mode_t mode) noexcept {
  static const auto real = next<int(const char*, mode_t)>("mkdir");
  may_die("mkdir", path);
  return real(path, mode);
}

int unlink(const char* path) noexcept {
  static const auto real = next<int(const char*)>("unlink");
  may_die("remove", path);
  return real(path);
}

int unlinkat(int folder, const char* path, int flags) noexcept {
  static const auto real = next<int(int, const char*, int)>("unlinkat");
  may_die("remove", folder == AT_FDCWD ? path : path_of(folder) + "/" + path);
  return real(folder, path, flags);
}

int rmdir(const char* path) noexcept {
  static const auto real = next<int(const char*)>("rmdir");
  may_die("remove", path);
  return real(path);
}

}  // extern "C"
