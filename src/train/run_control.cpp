// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/run_control.hpp"

#include "kokomoe/core/error.hpp"

#include <atomic>
#include <csignal>
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <unistd.h>
#include <utility>

namespace kokomoe {

namespace {

std::atomic<int> signals_seen{0};
std::atomic<int> terminations_seen{0};

// Batch systems send SIGUSR1 ahead of SIGTERM, and a terminal that closes sends SIGHUP twice, by
// itself and through its shell: only a second request to end leaves at once.
void on_signal(int signal) {
  signals_seen.fetch_add(1);
  const bool ends = signal == SIGTERM || signal == SIGINT;
  if (ends && terminations_seen.fetch_add(1) > 0) _exit(143);
}

constexpr int watched[] = {SIGTERM, SIGINT, SIGUSR1, SIGHUP};

/// nohup asks that the end of the terminal be nothing. (SIGINT, which shells ignore for what they
/// start in the background, is watched all the same.)
bool is_ignored_hangup(int signal) {
  struct sigaction current = {};
  return signal == SIGHUP && sigaction(signal, nullptr, &current) == 0 &&
         current.sa_handler == SIG_IGN;
}

}  // namespace

RunControl::RunControl(std::string run_folder, double wall_seconds)
    : run_folder_(std::move(run_folder)),
      wall_seconds_(wall_seconds),
      start_(std::chrono::steady_clock::now()) {
  static_assert(std::atomic<int>::is_always_lock_free, "a signal handler must not lock");
  signals_seen = terminations_seen = 0;
  for (const int signal : watched) {
    if (is_ignored_hangup(signal)) continue;
    struct sigaction action = {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    sigaction(signal, &action, nullptr);
  }
}

RunControl::~RunControl() {
  for (const int signal : watched)
    if (!is_ignored_hangup(signal)) std::signal(signal, SIG_DFL);
}

double RunControl::elapsed() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

StopReason RunControl::check(const Communicator& communicator, double reserve) {
  const std::string file = run_folder_ + "/stop";
  StopReason own = StopReason::none;
  if (signals_seen > 0) own = StopReason::signal;
  if (own == StopReason::none && communicator.is_root()) {
    std::error_code ignored;
    if (wall_seconds_ > 0 && elapsed() + reserve >= wall_seconds_)
      own = StopReason::wall_limit;
    else if (std::filesystem::exists(file, ignored))
      own = StopReason::stop_file;
  }
  const auto agreed = static_cast<StopReason>(communicator.all_reduce_max(static_cast<int>(own)));
  if (agreed == StopReason::stop_file && communicator.is_root()) {
    std::error_code ignored;
    std::filesystem::remove(file, ignored);
  }
  return agreed;
}

std::string to_string(StopReason reason) {
  switch (reason) {
    case StopReason::signal: return "a signal";
    case StopReason::wall_limit: return "the wall limit";
    case StopReason::stop_file: return "the file \"stop\"";
    default: return "nothing";
  }
}

double parse_duration(const std::string& text) {
  double seconds = 0;
  std::size_t begin = 0;
  int parts = 0;
  const auto refuse = [&]() -> double {
    throw InputError("\"" + text + "\" is not a duration: write hh:mm:ss, mm:ss or seconds");
  };
  while (true) {
    const std::size_t end = std::min(text.find(':', begin), text.size());
    if (end == begin || ++parts > 3) return refuse();
    double part = 0;
    for (std::size_t i = begin; i < end; ++i) {
      if (text[i] < '0' || text[i] > '9' || end - begin > 9) return refuse();
      part = 10 * part + (text[i] - '0');
    }
    if (parts > 1 && part >= 60) return refuse();
    seconds = 60 * seconds + part;
    if (end == text.size()) return seconds;
    begin = end + 1;
  }
}

}  // namespace kokomoe
