// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/run_folder.hpp"

#include "io/files.hpp"
#include "io/toml_reader.hpp"
#include "kokomoe/core/error.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>
#include <vector>

namespace kokomoe {

namespace fs = std::filesystem;

int (*detail::lock_call)(int file, int operation) = ::flock;

namespace {

/// "process 12 on node3", from the file of a lock that another has.
std::string holder_of(const std::string& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  const bool readable =
      std::all_of(line.begin(), line.end(), [](unsigned char c) { return c >= 0x20 && c < 0x7f; });
  return line.empty() || line.size() > 200 || !readable ? "another process" : line;
}

std::string own_name() {
  char host[256] = "";
  ::gethostname(host, sizeof host - 1);
  return "process " + std::to_string(::getpid()) + " on " + host;
}

/// The run's checkpoint/every, 0 where that cannot be told.
std::int64_t interval_of(const std::string& folder) {
  std::ifstream file(folder + "/effective.toml", std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  try {
    for (const detail::TomlItem& item : detail::read_toml(text, "effective.toml"))
      if (item.path == "checkpoint/every") return item.integer;
  } catch (const detail::TomlSyntaxError&) {  // torn
  }
  return 0;
}

/// The last step that has a row.
std::int64_t last_step(const std::string& metrics) {
  std::ifstream file(metrics, std::ios::binary);
  long long last = 0, step = 0;
  for (std::string line; std::getline(file, line);)
    if (std::sscanf(line.c_str(), "{\"step\": %lld", &step) == 1) last = std::max(last, step);
  return last;
}

/// A folder and those above it that are not there yet, the innermost first.
std::vector<std::string> missing_folders(const std::string& folder) {
  std::vector<std::string> missing;
  std::error_code unknown;
  for (fs::path path = folder; !path.empty() && !fs::exists(path, unknown) && !unknown;
       path = path.parent_path())
    if (path.has_filename()) missing.push_back(path.string());  // none after a slash
  return missing;
}

}  // namespace

bool is_run(const std::string& folder) {
  std::error_code ignored;
  return fs::exists(folder + "/effective.toml", ignored) ||
         fs::exists(folder + "/metrics.jsonl", ignored) ||
         fs::exists(folder + "/checkpoints", ignored);
}

void refuse_lost_checkpoints(const std::string& folder) {
  std::ifstream metrics(folder + "/metrics.jsonl", std::ios::binary);
  const auto rows = std::count(std::istreambuf_iterator<char>(metrics), {}, '\n');
  std::error_code ignored;
  const bool saved = fs::exists(folder + "/checkpoints/latest", ignored);
  if (rows == 0 && !saved) return;
  // Killed before its first save was done: starting over loses no more than the one interval.
  if (!saved && fs::is_directory(folder + "/checkpoints", ignored) &&
      last_step(folder + "/metrics.jsonl") <= interval_of(folder))
    return;
  const std::string found = rows > 0 ? "metrics.jsonl has " + std::to_string(rows) + " rows"
                                     : "checkpoints/latest is there";
  throw InputError(
      "run folder \"" + folder + "\" has lost its checkpoints: " + found +
      ", but checkpoints/ holds no step folder. Starting over would cut what is there: "
      "bring the checkpoints back, choose another folder with -d, or remove " +
      folder + (rows > 0 ? "/metrics.jsonl" : "/checkpoints/latest") + " to start over here");
}

RunLock::~RunLock() {
  if (file_ < 0) return;
  if (!made_.empty() && !is_run(made_.front())) {
    ::unlink((made_.front() + "/lock").c_str());
    for (const std::string& folder : made_)
      ::rmdir(folder.c_str());  // fails where somebody else has put something by now
  }
  ::close(file_);
}

/// False when who held the lock before took its file away.
bool RunLock::holds_path(const std::string& path) const {
  struct stat held = {}, there = {};
  return ::fstat(file_, &held) == 0 && ::stat(path.c_str(), &there) == 0 &&
         held.st_ino == there.st_ino && held.st_dev == there.st_dev;
}

void RunLock::take(const std::string& folder) {
  if (file_ >= 0) return;
  if (made_.empty()) made_ = missing_folders(folder);
  detail::make_writable_folder(folder, "run folder");
  const std::string path = folder + "/lock";
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (file < 0)
    throw InputError("run folder \"" + folder + "\" cannot be written to: " + path + ": " +
                     std::strerror(errno));
  int result = 0;
  do {
    result = detail::lock_call(file, LOCK_EX | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  const int code = result == 0 ? 0 : errno;
  if (code == EWOULDBLOCK) {
    ::close(file);
    throw InputError("run folder \"" + folder + "\" is in use by " + holder_of(path) +
                     ": wait for it, or choose another folder with -d");
  }
  file_ = file;
  if (!holds_path(path)) {
    ::close(std::exchange(file_, -1));
    return take(folder);
  }
  if (code != 0)
    note_ = "run folder \"" + folder + "\" cannot be locked (" + std::strerror(code) +
            "): see to it that no second training uses it";
  const std::string name = own_name() + "\n";
  const bool written = ::ftruncate(file, 0) == 0 && ::pwrite(file, name.data(), name.size(), 0) ==
                                                        static_cast<ssize_t>(name.size());
  if (!written)
    throw InputError("run folder \"" + folder + "\" cannot be written to: " + path + ": " +
                     std::strerror(errno));
  for (const char* item : {"checkpoints", "effective.toml", "metrics.jsonl"}) {
    std::error_code ignored;
    const std::string part = folder + "/" + item;
    const std::string problem = fs::exists(part, ignored) ? detail::write_problem(part) : "";
    if (!problem.empty())
      throw InputError("run folder \"" + folder + "\" cannot be written to: " + part + ": " +
                       problem);
  }
}

}  // namespace kokomoe
