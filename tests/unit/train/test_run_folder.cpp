// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/train/run_folder.hpp"
#include "support/catch.hpp"
#include "support/temporary_folder.hpp"
#include "support/unprivileged.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

std::string refusal(const std::string& folder) {
  return message_of<InputError>([&] {
    RunLock lock;
    lock.take(folder);
  });
}

/// Another process that holds a run folder until it is killed.
class Holder {
 public:
  explicit Holder(const std::string& folder) {
    int ready[2];
    REQUIRE(pipe(ready) == 0);
    child_ = fork();
    if (child_ == 0) {
      RunLock lock;
      lock.take(folder);
      const bool told = write(ready[1], "x", 1) == 1;
      while (told) pause();
      _exit(1);
    }
    close(ready[1]);
    char byte = 0;
    CHECK(read(ready[0], &byte, 1) == 1);
    close(ready[0]);
  }
  ~Holder() { end(); }
  void end() {
    if (child_ <= 0) return;
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
    child_ = 0;
  }
  pid_t process() const { return child_; }

 private:
  pid_t child_ = 0;
};

int no_locks(int, int) {
  errno = ENOLCK;
  return -1;
}

}  // namespace

TEST_CASE("a run folder has one process at a time", "[train]") {
  const TemporaryFolder folder;
  const std::string run = folder / "deep/run";
  {
    RunLock lock;
    lock.take(run);
    lock.take(run);
    CHECK(lock.note().empty());
    CHECK_THAT(refusal(run), contains("run folder \"" + run + "\" is in use by process " +
                                      std::to_string(getpid())));
  }
  RunLock next;
  next.take(run);
}

TEST_CASE("a run folder is free once its process was killed", "[train]") {
  const TemporaryFolder folder;
  const std::string run = folder / "run";
  Holder holder(run);
  CHECK_THAT(refusal(run), contains("in use by process " + std::to_string(holder.process())));
  holder.end();
  RunLock next;
  next.take(run);
}

TEST_CASE("a file system without locks is noted", "[train]") {
  const TemporaryFolder folder;
  const auto call = detail::lock_call;
  detail::lock_call = no_locks;
  RunLock lock;
  lock.take(folder.path());
  detail::lock_call = call;
  CHECK_THAT(lock.note(), contains("\"" + folder.path() + "\" cannot be locked"));
}

TEST_CASE("a run folder that cannot be used is named, with the reason", "[train]") {
  const TemporaryFolder folder;
  namespace fs = std::filesystem;
  write_text(folder / "file", "");
  CHECK_THAT(refusal(folder / "file"),
             contains("file: error: the run folder cannot be made: Not a directory"));
  CHECK_THAT(refusal(folder / "file/run"), contains("the run folder cannot be made"));
  fs::create_directories(folder / "run/checkpoints");
  fs::permissions(folder / "run/checkpoints", fs::perms(0555));
  {
    RunLock lock;
    lock.take(folder / "run");
  }
  fs::permissions(folder / "run/lock", fs::perms(0666));
  fs::permissions(folder / "run", fs::perms(0777));
  const Unprivileged nobody;
  if (!nobody.holds()) return;
  CHECK_THAT(
      refusal(folder / "run"),
      contains("\" cannot be written to: " + (folder / "run/checkpoints") + ": Permission denied"));
}

TEST_CASE("a run folder that may not be written to is refused", "[train]") {
  const TemporaryFolder folder;
  namespace fs = std::filesystem;
  fs::create_directory(folder / "run");
  fs::permissions(folder / "run", fs::perms(0555));
  const Unprivileged nobody;
  if (!nobody.holds()) return;
  CHECK(refusal(folder / "run") ==
        folder / "run" + ": error: the run folder cannot be written to: Permission denied");
  CHECK(refusal(folder / "run/inner") ==
        folder / "run/inner" + ": error: the run folder cannot be made: Permission denied");
}

TEST_CASE("a run that lost its checkpoints is not begun anew", "[train]") {
  const TemporaryFolder folder;
  const auto message = [&] {
    return message_of<InputError>([&] { refuse_lost_checkpoints(folder.path()); });
  };
  refuse_lost_checkpoints(folder.path());
  refuse_lost_checkpoints(folder / "nowhere");
  write_text(folder / "metrics.jsonl", "");
  refuse_lost_checkpoints(folder.path());
  write_text(folder / "metrics.jsonl", "{\"step\": 1}\n{\"step\": 2}\n");
  CHECK_THAT(message(), contains("\"" + folder.path() + "\" has lost its checkpoints"));
  CHECK_THAT(message(), contains("metrics.jsonl has 2 rows"));
  CHECK_THAT(message(), contains("another folder with -d"));
  // Killed in the first interval, nothing was saved yet: only with the checkpoints folder there,
  // no step past the interval, and no `latest`.
  write_text(folder / "effective.toml", "[checkpoint]\nevery = 2\n");
  CHECK_THAT(message(), contains("has lost its checkpoints"));
  std::filesystem::create_directory(folder / "checkpoints");
  refuse_lost_checkpoints(folder.path());
  write_text(folder / "effective.toml", "[checkpoint]\nevery = 1\n");
  CHECK_THAT(message(), contains("has lost its checkpoints"));
  write_text(folder / "effective.toml", "[checkpoint]\nevery = ");
  CHECK_THAT(message(), contains("has lost its checkpoints"));
  write_text(folder / "effective.toml", "[checkpoint]\nevery = 2\n");
  write_text(folder / "checkpoints/latest", "step_2\n");
  CHECK_THAT(message(), contains("has lost its checkpoints"));
  std::filesystem::remove(folder / "checkpoints/latest");
  std::filesystem::remove(folder / "metrics.jsonl");
  refuse_lost_checkpoints(folder.path());
  write_text(folder / "checkpoints/latest", "step_4\n");
  CHECK_THAT(message(), contains("checkpoints/latest is there"));
}

TEST_CASE("a folder that was made for a run and never became one goes with its lock", "[train]") {
  const TemporaryFolder folder;
  const std::string run = folder / "run";
  {
    RunLock lock;
    lock.take(run);
    CHECK(std::filesystem::exists(run + "/lock"));
  }
  CHECK_FALSE(std::filesystem::exists(run));
  {
    RunLock lock;
    lock.take(run);
    write_text(run + "/effective.toml", "");
  }
  CHECK(std::filesystem::exists(run + "/lock"));
  // One that was there stays, whatever became of it.
  std::filesystem::create_directories(folder / "own");
  { RunLock().take(folder / "own"); }
  CHECK(std::filesystem::exists(folder / "own"));
}
