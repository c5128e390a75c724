// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/run_control.hpp"

#include "kokomoe/core/error.hpp"

#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <utility>

namespace kokomoe {

namespace {

std::atomic<int> signals_seen{0};
std::atomic<int> terminations_seen{0};
int watches = 0;

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

SignalWatch::SignalWatch() {
  static_assert(std::atomic<int>::is_always_lock_free, "a signal handler must not lock");
  if (watches++ > 0) return;
  signals_seen = terminations_seen = 0;
  for (const int signal : watched) {
    if (is_ignored_hangup(signal)) continue;
    struct sigaction action = {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    sigaction(signal, &action, nullptr);
  }
}

SignalWatch::~SignalWatch() {
  if (--watches > 0) return;
  for (const int signal : watched)
    if (!is_ignored_hangup(signal)) std::signal(signal, SIG_DFL);
}

bool SignalWatch::seen() const {
  return signals_seen > 0;
}

RunControl::RunControl(std::string run_folder, double wall_seconds)
    : run_folder_(std::move(run_folder)),
      wall_seconds_(wall_seconds),
      start_(std::chrono::steady_clock::now()) {}

double RunControl::elapsed() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

bool RunControl::arrived(Letter& letter) const {
  std::error_code ignored;
  letter.seen =
      !letter.ignored && std::filesystem::exists(run_folder_ + "/" + letter.name, ignored);
  return letter.seen;
}

RunRequest RunControl::check(const Communicator& communicator, double reserve) {
  RunRequest own = RunRequest::none;
  if (communicator.is_root()) {
    if (arrived(checkpoint_now_)) own = RunRequest::checkpoint;
    if (arrived(stop_)) own = RunRequest::stop_file;
    if (wall_seconds_ > 0 && elapsed() + reserve >= wall_seconds_) own = RunRequest::wall_limit;
  }
  if (signals_.seen()) own = RunRequest::signal;
  return static_cast<RunRequest>(communicator.all_reduce_max(static_cast<int>(own)));
}

std::string RunControl::answer(RunRequest request) {
  std::string problem;
  const auto remove = [&](Letter& letter) {
    const std::string path = run_folder_ + "/" + letter.name;
    std::error_code code;
    std::filesystem::remove(path, code);
    letter.seen = false;
    if (!code) return;
    letter.ignored = true;
    problem = path + " cannot be removed (" + code.message() + "): it is ignored from now on";
  };
  if (checkpoint_now_.seen) remove(checkpoint_now_);
  if (stop_.seen && ends_run(request)) remove(stop_);
  return problem;
}

std::string to_string(RunRequest request) {
  switch (request) {
    case RunRequest::checkpoint:
      return "the file \"checkpoint_now\"";
    case RunRequest::signal:
      return "a signal";
    case RunRequest::wall_limit:
      return "the wall limit";
    case RunRequest::stop_file:
      return "the file \"stop\"";
    default:
      return "nothing";
  }
}

std::vector<std::string> remove_old_requests(const std::string& run_folder) {
  std::vector<std::string> notes;
  for (const char* name : {"stop", "checkpoint_now"}) {
    const std::string path = run_folder + "/" + name;
    std::error_code ignored;
    if (std::filesystem::remove(path, ignored))
      notes.push_back(path + " was there before this run began, and is removed");
  }
  return notes;
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
