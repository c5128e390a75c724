// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/train/trainer.hpp"

#include <cstdint>
#include <string>

namespace kokomoe {

/// What a run prints: one line a step when standard output is no terminal, one line that is
/// rewritten, with a bar and the time left, when it is. Ranks other than the root print nothing.
class Progress {
 public:
  Progress(bool root, std::int64_t total_steps);

  /// A line of its own, above the bar.
  void say(const std::string& line);
  /// `gemm_share`: of the rate of the ranks' GEMMs that the step's products reached; 0 = not known.
  void step(const UpdateReport& report, double tokens_per_second, double gemm_share,
            double seconds_left, double checkpoint_seconds);
  /// Leaves the bar's line.
  void finish();

 private:
  bool root_;
  bool terminal_;
  bool bar_shown_ = false;
  std::int64_t total_steps_;
};

/// "12.3k", "4.56M": three digits and a unit.
std::string human_count(double value);
/// "1h02m", "3m20s", "12s".
std::string human_time(double seconds);
/// "1.50 GiB", "12.0 MiB".
std::string human_bytes(double bytes);

}  // namespace kokomoe
