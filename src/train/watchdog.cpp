// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/watchdog.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/parallel/agree.hpp"
#include "kokomoe/parallel/pulse.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <thread>

namespace kokomoe {

namespace {

namespace fs = std::filesystem;
using SteadyClock = std::chrono::steady_clock;

std::string own_name() {
  char host[256] = "";
  ::gethostname(host, sizeof host - 1);
  return "process " + std::to_string(::getpid()) + " on " + host;
}

/// Opened and closed each time: network file systems show others a file when it is closed.
int write_whole(const std::string& path, const std::string& text, int flags) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0666);
  if (file < 0) return errno;
  const ssize_t count = ::pwrite(file, text.data(), text.size(), 0);
  const int code = count == static_cast<ssize_t>(text.size()) ? 0 : count < 0 ? errno : ENOSPC;
  return ::close(file) == 0 ? code : errno;
}

std::string read_whole(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return "";
  char text[1024];
  const ssize_t count = ::read(file, text, sizeof text);
  ::close(file);
  return count > 0 ? std::string(text, static_cast<std::size_t>(count)) : "";
}

/// Past the C and C++ streams, whose locks the stuck thread may hold.
void say(const std::string& text) {
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t count = ::write(STDERR_FILENO, text.data() + done, text.size() - done);
    if (count <= 0) return;
    done += static_cast<std::size_t>(count);
  }
}

}  // namespace

struct Watchdog::State {
  std::string folder;
  double seconds = 0;
  int rank = 0, ranks = 1;
  std::chrono::duration<double> tick{};
  detail::Heartbeat own;
  std::atomic<std::uint64_t> phase_number{0};
  std::atomic<std::int64_t> step{0};
  std::atomic<const char*> phase{"start"};
  std::mutex mutex;
  std::condition_variable changed;
  bool ends = false;
  std::thread thread;

  std::string file_of(int r) const { return folder + "/rank_" + std::to_string(r); }

  int publish() {
    const char* const call = pulse().waits_in.load();
    ++own.written;
    own.phase_number = phase_number;
    own.step = step;
    own.phase = phase.load();
    own.waits_in = call != nullptr ? call : "";
    own.collectives = pulse().collectives;
    return write_whole(file_of(rank), detail::format_heartbeat(own), 0);
  }

  std::vector<detail::Heartbeat> read_all() const {
    std::vector<detail::Heartbeat> all;
    for (int r = 0; r < ranks; ++r) all.push_back(detail::parse_heartbeat(read_whole(file_of(r))));
    return all;
  }

  /// Sleeps; true when the run is over.
  bool pause(double ticks) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, ticks * tick, [&] { return ends; });
  }

  std::uint64_t beats() const { return pulse().beats; }

  void watch();
  bool report(std::uint64_t last);
};

void Watchdog::State::watch() {
  std::uint64_t last = beats();
  double still = 0;
  auto before = SteadyClock::now();
  while (!pause(1)) {
    publish();
    const auto now = SteadyClock::now();
    // A process that was stopped itself (a suspended job) has not stood still for that long.
    const double passed = std::chrono::duration<double>(now - before).count();
    still += std::min(passed, 2 * tick.count());
    before = now;
    if (beats() != last) {
      last = beats();
      still = 0;
    } else if (still >= seconds && report(last)) {
      return;
    } else if (still >= seconds) {
      still = 0;
    }
  }
}

/// Returns only when somebody got further after all (false) or the run is over (true).
bool Watchdog::State::report(std::uint64_t last) {
  const std::string claim = folder + "/report";
  // One rank reads the files of all: the first to get here.
  if (write_whole(claim, own_name() + "\n", O_EXCL) == EEXIST) {
    for (int i = 0; i < 24; ++i) {
      if (pause(1)) return true;
      publish();
      if (beats() != last) return false;
    }
    say("kokomoe (rank " + std::to_string(rank) +
        "): the watchdog ends this rank: no progress, and no report from another\n");
    ::_exit(1);
  }
  const std::vector<detail::Heartbeat> first = read_all();
  for (int i = 0; i < 3; ++i) {
    if (pause(1)) return true;
    publish();
  }
  const std::vector<detail::Heartbeat> second = read_all();
  if (beats() != last) {
    ::unlink(claim.c_str());
    return false;
  }
  say("kokomoe: " + detail::stall_report(first, second, seconds) +
      "\n  saved checkpoints are as they were: go on with -r last\n");
  ::_exit(1);
}

Watchdog::Watchdog(const std::string& run_folder, double seconds,
                   const Communicator& communicator) {
  if (seconds <= 0) return;
  state_ = std::make_unique<State>();
  State& s = *state_;
  s.folder = run_folder + "/heartbeat";
  s.seconds = seconds;
  s.rank = communicator.rank();
  s.ranks = communicator.size();
  s.tick = std::chrono::duration<double>(std::clamp(seconds / 8, 0.05, 10.0));
  s.own.process = own_name();
  run_on_root(communicator, [&] {
    std::error_code code;
    fs::remove_all(s.folder, code);
    if (!code) fs::create_directories(s.folder, code);
    if (code) fail(s.folder, "cannot be made for the watchdog -w: " + code.message());
  });
  run_on_all(communicator, [&] {
    if (const int code = s.publish(); code != 0)
      fail(s.file_of(s.rank),
           std::string("cannot be written for the watchdog -w: ") + std::strerror(code));
  });
  // Signals are for the thread that trains.
  sigset_t all, kept;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &kept);
  s.thread = std::thread([&s] { s.watch(); });
  pthread_sigmask(SIG_SETMASK, &kept, nullptr);
}

Watchdog::~Watchdog() {
  if (!state_) return;
  {
    const std::lock_guard lock(state_->mutex);
    state_->ends = true;
  }
  state_->changed.notify_all();
  state_->thread.join();
  ::unlink(state_->file_of(state_->rank).c_str());
  ::rmdir(state_->folder.c_str());  // the last one succeeds
}

void Watchdog::enter(std::int64_t step, const char* phase) {
  if (!state_) return;
  state_->step = step;
  state_->phase = phase;
  ++state_->phase_number;
  mark_progress();
}

}  // namespace kokomoe
