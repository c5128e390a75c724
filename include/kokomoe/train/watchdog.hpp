// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/communicator.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace kokomoe {

/// Ends a run that stands still, and says which ranks the others wait for. Each rank has a thread
/// that writes where the rank stands to RUN/heartbeat/rank_N every so often, and looks whether it
/// got any further: no MPI, so that it works while the rank itself is stuck in MPI or in a kernel.
/// The first rank to find its time up reads all files, prints a report, and ends its process with
/// code 1; the launcher, or their own watchdogs, end the others.
class Watchdog {
 public:
  /// `seconds` without progress are too many; 0 = no watchdog, and nothing happens here.
  /// Collective. Throws Error when RUN/heartbeat cannot be written to.
  Watchdog(const std::string& run_folder, double seconds, const Communicator& communicator);
  /// Removes this rank's file. Not collective.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// This rank begins `phase` ("update", "save", ...; one word in static storage) of update `step`.
  /// Every rank goes through the same phases.
  void enter(std::int64_t step, const char* phase);

  struct State;

 private:
  std::unique_ptr<State> state_;
};

namespace detail {

/// Where a rank stands, as its file says.
struct Heartbeat {
  bool found = false;              ///< false: no file, or not one of ours
  std::uint64_t written = 0;       ///< times that its watchdog wrote; grows while the process lives
  std::uint64_t phase_number = 0;  ///< phases begun
  std::int64_t step = 0;
  std::uint64_t collectives = 0;  ///< calls that wait for other ranks, begun in all
  std::string phase;
  std::string waits_in;  ///< the call in which it waits for others; empty when it works
  std::string process;   ///< "process 12 on node3"
};

/// One line of fixed length, so that a reader never sees a mixture of lengths.
std::string format_heartbeat(const Heartbeat& heartbeat);
/// Reverse; `found` is false for anything else.
Heartbeat parse_heartbeat(const std::string& line);

/// The report on ranks that got no further for `seconds`, from two readings of all files some
/// writes apart: who has not arrived, and who waits where.
std::string stall_report(const std::vector<Heartbeat>& before, const std::vector<Heartbeat>& after,
                         double seconds);

/// "rank 3", "ranks 0-2, 5".
std::string rank_list(const std::vector<int>& ranks);

}  // namespace detail
}  // namespace kokomoe
