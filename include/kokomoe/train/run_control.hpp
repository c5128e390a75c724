// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/communicator.hpp"

#include <chrono>
#include <string>

namespace kokomoe {

/// Why a run should end early, agreed on by all ranks.
enum class StopReason { none, signal, wall_limit, stop_file };

/// Watches for SIGTERM, SIGINT, SIGUSR1 and SIGHUP, a wall limit, and a file `stop` in the run
/// folder. The handlers only set a flag; a second SIGTERM or SIGINT leaves at once with code 143. A
/// SIGHUP that is ignored already (nohup) stays so.
class RunControl {
 public:
  /// `wall_seconds` 0 = no limit; counted from here. Installs the handlers.
  RunControl(std::string run_folder, double wall_seconds);
  ~RunControl();
  RunControl(const RunControl&) = delete;
  RunControl& operator=(const RunControl&) = delete;

  /// Collective: one reduction. Removes the file when that is the reason. `reserve` seconds before
  /// the wall limit count as reached (what a step and a checkpoint take).
  StopReason check(const Communicator& communicator, double reserve);

  double elapsed() const;

 private:
  std::string run_folder_;
  double wall_seconds_;
  std::chrono::steady_clock::time_point start_;
};

std::string to_string(StopReason reason);

/// Seconds of "hh:mm:ss", "mm:ss" or "ss"; throws InputError.
double parse_duration(const std::string& text);

}  // namespace kokomoe
