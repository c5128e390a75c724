// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/parallel/all_to_all.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/parallel/pulse.hpp"
#include "parallel/implementation.hpp"

#include <algorithm>
#include <cstring>
#include <string>

namespace kokomoe {

AllToAll::AllToAll(const Communicator& communicator, std::size_t largest_message)
    : largest_message_(largest_message) {
  if (communicator.size() > 1) state_ = communicator.implementation()->make_all_to_all();
}
AllToAll::~AllToAll() = default;
AllToAll::AllToAll(AllToAll&&) noexcept = default;
AllToAll& AllToAll::operator=(AllToAll&&) noexcept = default;

void AllToAll::begin(const Part& send, const Part& receive, std::size_t item_bytes, int largest,
                     bool wait) {
  if (!state_) {
    if (send.counts.size() != 1 || receive.counts.size() != 1 ||
        send.counts[0] != receive.counts[0])
      fail("AllToAll::begin", "one rank that does not receive what it sends");
    const std::size_t bytes = static_cast<std::size_t>(send.counts[0]) * item_bytes;
    if (bytes > 0)
      std::memcpy(
          static_cast<char*>(receive.data) + static_cast<std::size_t>(receive.offsets[0]) * item_bytes,
          static_cast<const char*>(send.data) + static_cast<std::size_t>(send.offsets[0]) * item_bytes,
          bytes);
    return;
  }
  const std::size_t at_once =
      std::max<std::size_t>(1, largest_message_ / std::max<std::size_t>(1, item_bytes));
  for (const int count : send.counts)
    if (count > largest)
      fail("AllToAll::begin", std::to_string(count) + " items for one rank, where " +
                                  std::to_string(largest) + " were agreed to be the most");
  const auto most = static_cast<std::size_t>(std::max(largest, 1));
  const WaitingForRanks waiting("all_to_all");
  state_->begin(send, receive, item_bytes, at_once, static_cast<int>((most + at_once - 1) / at_once),
                wait);
}

bool AllToAll::test() {
  return !state_ || state_->test();
}

void AllToAll::finish() {
  if (!state_) return;
  const WaitingForRanks waiting("all_to_all");
  state_->finish();
}

}  // namespace kokomoe
