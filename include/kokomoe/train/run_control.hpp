// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/communicator.hpp"

#include <chrono>
#include <string>
#include <vector>

namespace kokomoe {

/// What somebody wants of a run between two steps, agreed on by all ranks; what is more wins.
enum class RunRequest {
  none,
  checkpoint,  ///< save and go on
  signal,      ///< this and what follows: save and end
  wall_limit,
  stop_file
};

/// True for what ends the run.
inline bool ends_run(RunRequest request) {
  return request > RunRequest::checkpoint;
}

/// Notes SIGTERM, SIGINT, SIGUSR1 and SIGHUP while it lives; a second SIGTERM or SIGINT leaves at
/// once with code 143. A SIGHUP that is ignored already (nohup) stays so. One inside another sees
/// what that one saw: a signal stays seen until the outermost is gone.
class SignalWatch {
 public:
  SignalWatch();
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

  bool seen() const;  ///< any of them, on this rank
};

/// Watches for signals, a wall limit, and files `stop` and `checkpoint_now` in the run folder.
class RunControl {
 public:
  /// `wall_seconds` 0 = no limit; counted from here.
  RunControl(std::string run_folder, double wall_seconds);

  /// Collective: one reduction. `reserve` seconds before the wall limit count as reached (what a
  /// step and a checkpoint take).
  RunRequest check(const Communicator& communicator, double reserve);

  /// After the save: removes the files that asked for it, so that whoever made them sees that it is
  /// done; the log says how it went. Returns what is wrong when one stays, or ""; it is then not
  /// looked at again. On the root; other ranks do nothing.
  std::string answer(RunRequest request);

  double elapsed() const;

 private:
  /// A file by which somebody speaks to the run.
  struct Letter {
    const char* name;
    bool seen = false, ignored = false;
  };
  bool arrived(Letter& letter) const;

  SignalWatch signals_;
  std::string run_folder_;
  double wall_seconds_;
  Letter stop_{"stop"}, checkpoint_now_{"checkpoint_now"};
  std::chrono::steady_clock::time_point start_;
};

/// "a signal", "the wall limit", ...: what a run was ended by.
std::string to_string(RunRequest request);

/// Removes the files `stop` and `checkpoint_now` that are there before a run begins: they were
/// meant for one that had ended already. Returns what to tell the user.
std::vector<std::string> remove_old_requests(const std::string& run_folder);

/// Seconds of "hh:mm:ss", "mm:ss" or "ss"; throws InputError.
double parse_duration(const std::string& text);

}  // namespace kokomoe
