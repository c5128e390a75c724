// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/together.hpp"

#include "kokomoe/core/error.hpp"

#include <cstdint>
#include <string>
#include <utility>

namespace kokomoe::detail {

void Together::attempt(const std::function<void()>& work) {
  if (error_) return;
  try {
    work();
  } catch (const std::exception&) {
    error_ = std::current_exception();
  }
}

void Together::agree() {
  if (ranks_.size() == 1) {
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    return;
  }
  // The first rank that failed has the largest; 0: none.
  const std::int64_t worst = ranks_.all_reduce_max(error_ ? ranks_.size() - ranks_.rank() : 0);
  if (worst == 0) return;
  const int first = static_cast<int>(ranks_.size() - worst);
  // First byte: which type; the rest: the message.
  std::string outcome;
  if (ranks_.rank() == first) {
    try {
      std::rethrow_exception(error_);
    } catch (const InputError& error) {
      outcome = std::string("2") + error.what();
    } catch (const std::exception& error) {
      outcome = std::string("1") + error.what();
    }
  }
  error_ = nullptr;
  if (first != 0) {
    std::uint64_t bytes = outcome.size();
    if (ranks_.rank() == first) {
      ranks_.send(&bytes, sizeof bytes, 0);
      ranks_.send(outcome.data(), outcome.size(), 0);
    } else if (ranks_.is_root()) {
      ranks_.receive(&bytes, sizeof bytes, first);
      outcome.resize(bytes);
      ranks_.receive(outcome.data(), outcome.size(), first);
    }
  }
  outcome = ranks_.broadcast(outcome);
  if (outcome[0] == '2') throw InputError(outcome.substr(1));
  throw Error(outcome.substr(1));
}

}  // namespace kokomoe::detail
