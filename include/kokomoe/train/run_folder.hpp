// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>
#include <vector>

namespace kokomoe {

/// True when the folder holds what a run writes.
bool is_run(const std::string& folder);

/// Throws InputError when a run without checkpoints has something to lose by starting over: more
/// than the first checkpoint/every steps, after which it must have saved.
void refuse_lost_checkpoints(const std::string& folder);

/// A run folder in the hands of one process: flock on RUN/lock, which the system gives back however
/// the process ends. A folder that it made, and that never became a run, goes with it.
class RunLock {
 public:
  RunLock() = default;
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  /// Makes the folder when it is missing, sees that a run can write there, and locks it. InputError
  /// naming the folder. Nothing when it is held already.
  void take(const std::string& folder);

  /// What to tell the user when the file system has no locks, or "".
  const std::string& note() const { return note_; }

 private:
  bool holds_path(const std::string& path) const;

  int file_ = -1;
  std::vector<std::string> made_;  ///< folders that were not there before, the run's first
  std::string note_;
};

namespace detail {

/// flock(2); tests put another in its place.
extern int (*lock_call)(int file, int operation);

}  // namespace detail

}  // namespace kokomoe
