// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/communicator.hpp"

#include <exception>
#include <functional>

namespace kokomoe::detail {

/// Errors of work that ranks do side by side. A rank whose part fails goes on taking part in what
/// is collective, until all learn of it at the next `agree`: so nobody waits for a rank that has
/// gone.
class Together {
 public:
  explicit Together(const Communicator& ranks) : ranks_(ranks) {}

  /// Runs `work` unless something failed on this rank before; keeps what it throws. Exceptions
  /// outside std::exception pass.
  void attempt(const std::function<void()>& work);
  bool failed() const { return error_ != nullptr; }
  /// Collective. When any rank failed, every rank throws the message of the first one that did, as
  /// InputError or Error, as there.
  void agree();

 private:
  const Communicator& ranks_;
  std::exception_ptr error_;
};

}  // namespace kokomoe::detail
