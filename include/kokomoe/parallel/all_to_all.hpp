// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/communicator.hpp"

#include <cstddef>
#include <memory>
#include <span>

namespace kokomoe {

/// Items from every rank of a group to every other. Keep it between steps: it holds what MPI reads
/// while an exchange is under way, and its memory is used again.
class AllToAll {
 public:
  /// Where rank q's items lie: `counts[q]` from `offsets[q]` on, in items.
  struct Part {
    void* data = nullptr;
    std::span<const int> counts;
    std::span<const int> offsets;
  };

  /// `largest_message`: bytes; what one rank sends another is cut into pieces of no more (but one
  /// item at least), since MPI libraries are not to be trusted beyond 2^31.
  explicit AllToAll(const Communicator& communicator,
                    std::size_t largest_message = std::size_t(1) << 30);
  ~AllToAll();
  AllToAll(AllToAll&&) noexcept;
  AllToAll& operator=(AllToAll&&) noexcept;

  /// Starts. Memory that MPI can read; nothing of it may be touched before finish. `largest`: the
  /// most items that any rank of the group sends to any other, the same on all. Collective.
  /// `wait`: returns when all has arrived, which MPI libraries do faster than start and finish.
  void begin(const Part& send, const Part& receive, std::size_t item_bytes, int largest,
             bool wait = false);
  /// Lets MPI work on it; true when it is done.
  bool test();
  /// Waits. Without a begin, or twice: nothing.
  void finish();

  struct State;

 private:
  std::unique_ptr<State> state_;  // null on one rank
  std::size_t largest_message_;
};

}  // namespace kokomoe
