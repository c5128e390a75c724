// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/progress.hpp"

#include <unistd.h>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace kokomoe {

namespace {

/// MPI launchers give ranks a terminal of their own, whatever their own output goes to.
bool writes_to_terminal() {
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"})
    if (std::getenv(variable) != nullptr) return false;
  return isatty(STDOUT_FILENO) != 0;
}

}  // namespace

Progress::Progress(bool root, std::int64_t total_steps)
    : root_(root), terminal_(writes_to_terminal()), total_steps_(total_steps) {}

void Progress::say(const std::string& line) {
  if (!root_) return;
  if (bar_shown_) std::printf("\r\033[K");
  bar_shown_ = false;
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

void Progress::step(const UpdateReport& report, double tokens_per_second, double gemm_share,
                    double seconds_left, double checkpoint_seconds) {
  if (!root_) return;
  double busiest = 0;
  int dead = 0;
  for (const LoadMetrics& load : report.load) {
    busiest = std::max(busiest, load.largest_over_mean);
    dead += load.dead;
  }
  char load_text[64] = "";
  if (!report.load.empty()) {
    std::snprintf(load_text, sizeof load_text, "  load %.2fx", busiest);
    if (dead > 0) {
      const std::size_t used = std::char_traits<char>::length(load_text);
      std::snprintf(load_text + used, sizeof load_text - used, " %d dead", dead);
    }
  }
  char saved_text[32] = "";
  if (checkpoint_seconds > 0)
    std::snprintf(saved_text, sizeof saved_text, "  saved %.2fs", checkpoint_seconds);
  char share_text[48] = "";
  if (gemm_share > 0)
    std::snprintf(share_text, sizeof share_text, " (%.0f %% of GEMM rate)", 100 * gemm_share);
  char line[368];
  std::snprintf(
      line, sizeof line,
      "step %lld/%lld  loss %.4f (task %.4f aux %.4f)  %s tok/s%s  lr %.2e  norm %.3f%s%s",
      static_cast<long long>(report.step), static_cast<long long>(total_steps_), report.loss,
      report.task_loss, report.aux_loss, human_count(tokens_per_second).c_str(), share_text,
      report.learning_rate, report.grad_norm, load_text, saved_text);
  if (!terminal_) {
    std::printf("%s\n", line);
    std::fflush(stdout);
    return;
  }
  constexpr int width = 20;
  const int done = static_cast<int>(width * report.step / std::max<std::int64_t>(1, total_steps_));
  const std::string bar = std::string(static_cast<std::size_t>(done), '#') +
                          std::string(static_cast<std::size_t>(width - done), '.');
  std::printf("\r\033[K[%s] %s  left %s", bar.c_str(), line, human_time(seconds_left).c_str());
  std::fflush(stdout);
  bar_shown_ = true;
}

void Progress::finish() {
  if (bar_shown_) std::printf("\n");
  bar_shown_ = false;
}

std::string human_count(double value) {
  const char* units[] = {"", "k", "M", "G", "T"};
  int unit = 0;
  while (std::abs(value) >= 999.5 && unit < 4) {
    value /= 1000;
    ++unit;
  }
  char text[32];
  const int digits = unit == 0 ? 0 : std::abs(value) < 9.995 ? 2 : std::abs(value) < 99.95 ? 1 : 0;
  std::snprintf(text, sizeof text, "%.*f%s", digits, value, units[unit]);
  return text;
}

std::string human_time(double seconds) {
  const auto whole = static_cast<long long>(std::max(0.0, seconds) + 0.5);
  char text[48];
  if (whole >= 3600)
    std::snprintf(text, sizeof text, "%lldh%02lldm", whole / 3600, whole / 60 % 60);
  else if (whole >= 60)
    std::snprintf(text, sizeof text, "%lldm%02llds", whole / 60, whole % 60);
  else
    std::snprintf(text, sizeof text, "%llds", whole);
  return text;
}

std::string human_bytes(double bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  while (bytes >= 1024 && unit < 4) {
    bytes /= 1024;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, "%.*f %s",
                unit == 0    ? 0
                : bytes < 10 ? 2
                             : 1,
                bytes, units[unit]);
  return text;
}

}  // namespace kokomoe
