// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <cstdint>

namespace kokomoe {

/// Signs of life of the thread that does this process's work, for another thread to read while the
/// first is stuck: plain atomics, no lock, nothing from MPI. One for each process.
struct Pulse {
  std::atomic<std::uint64_t> beats{0};        ///< grows with every sign of progress
  std::atomic<std::uint64_t> collectives{0};  ///< calls that wait for other ranks, begun so far
  /// The call in which it waits for other ranks now, in static storage; null outside of such calls.
  std::atomic<const char*> waits_in{nullptr};
};

inline Pulse& pulse() {
  static Pulse the_pulse;
  return the_pulse;
}

/// One sign of progress: call it in loops that take long and talk to nobody.
inline void mark_progress() {
  pulse().beats.fetch_add(1, std::memory_order_relaxed);
}

/// Says, while it lives, that this process has arrived where others must come too.
class WaitingForRanks {
 public:
  /// `call` has static storage.
  explicit WaitingForRanks(const char* call) {
    pulse().collectives.fetch_add(1, std::memory_order_relaxed);
    pulse().waits_in.store(call, std::memory_order_relaxed);
    mark_progress();
  }
  ~WaitingForRanks() {
    pulse().waits_in.store(nullptr, std::memory_order_relaxed);
    mark_progress();
  }
  WaitingForRanks(const WaitingForRanks&) = delete;
  WaitingForRanks& operator=(const WaitingForRanks&) = delete;
};

}  // namespace kokomoe
