// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/communicator.hpp"

namespace kokomoe::test {

/// All ranks of mpiexec, or one rank alone.
const Communicator& communicator();

}  // namespace kokomoe::test
