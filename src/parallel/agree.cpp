// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/parallel/agree.hpp"

#include "kokomoe/core/error.hpp"

#include <exception>
#include <string>

namespace kokomoe {

void run_on_root(const Communicator& communicator, const std::function<void()>& work) {
  if (communicator.size() == 1) return work();
  // First byte: what happened; the rest: the message.
  std::string outcome = "0";
  std::exception_ptr error;
  if (communicator.is_root()) {
    try {
      work();
    } catch (const InputError& e) {
      outcome = std::string("2") + e.what();
      error = std::current_exception();
    } catch (const std::exception& e) {
      outcome = std::string("1") + e.what();
      error = std::current_exception();
    }
  }
  outcome = communicator.broadcast(outcome);
  if (error) std::rethrow_exception(error);
  if (outcome[0] == '2') throw InputError(outcome.substr(1));
  if (outcome[0] == '1') throw Error(outcome.substr(1));
}

void run_on_all(const Communicator& communicator, const std::function<void()>& work) {
  if (communicator.size() == 1) return work();
  // As above.
  std::string outcome = "0";
  std::exception_ptr error;
  try {
    work();
  } catch (const InputError& e) {
    outcome = std::string("2") + e.what();
    error = std::current_exception();
  } catch (const std::exception& e) {
    outcome = std::string("1") + e.what();
    error = std::current_exception();
  }
  // The largest is the first failing rank's; 0 = none.
  const std::int64_t flag = error ? communicator.size() - communicator.rank() : 0;
  const std::int64_t worst = communicator.all_reduce_max(flag);
  if (worst == 0) return;
  // Its words go to everyone: who speaks first may end the job, and the others with their messages.
  const int first = static_cast<int>(communicator.size() - worst);
  if (first != 0) {
    std::uint64_t size = outcome.size();
    if (communicator.rank() == first) {
      communicator.send(&size, sizeof size, 0);
      communicator.send(outcome.data(), outcome.size(), 0);
    } else if (communicator.is_root()) {
      communicator.receive(&size, sizeof size, first);
      outcome.resize(size);
      communicator.receive(outcome.data(), size, first);
    }
  }
  const std::string words = communicator.broadcast(outcome);
  if (error) std::rethrow_exception(error);
  const std::string message = "rank " + std::to_string(first) + ": " + words.substr(1);
  if (words[0] == '2') throw InputError(message);
  throw Error(message);
}

}  // namespace kokomoe
