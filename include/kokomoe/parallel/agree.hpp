// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/communicator.hpp"

#include <functional>

namespace kokomoe {

/// Runs `work` on the root rank while the others wait. When it throws, every rank throws the same
/// message and the same type (InputError or Error), so nobody waits for a rank that has gone.
/// Collective. On one rank: just `work()`.
void run_on_root(const Communicator& communicator, const std::function<void()>& work);

/// Runs `work` on every rank. A rank whose work throws rethrows its own error; when any did, the
/// others throw "rank N: " and the message of the first such rank, of the same type (InputError or
/// Error). Collective: `work` itself must not be.
void run_on_all(const Communicator& communicator, const std::function<void()>& work);

}  // namespace kokomoe
