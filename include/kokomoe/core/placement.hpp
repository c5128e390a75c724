// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>

namespace kokomoe {

/// How many different cores the host threads of the execution space may run on, all together; 0
/// where the system does not tell (it does on Linux) or the execution space is a device's.
int cores_of_threads();

/// A warning for the start banner when threads outnumber their cores, else "". It costs a factor
/// of tens: threads wait for each other by spinning.
std::string placement_warning();

}  // namespace kokomoe
