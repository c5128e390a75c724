// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <string>

namespace kokomoe::detail {

/// A run goes on from `step` in a folder of checkpoints: `best` may then name none of a past that
/// is given up. It is made to name `best_step`, the best that the checkpoint knows of (0 = it does
/// not say), where that is still there; a later one's name is taken away. False when nothing in the
/// folder is the best so far: any evaluation then makes one. Throws Error that names the file.
bool go_back_to_best(const std::string& checkpoints, std::int64_t step, std::int64_t best_step);

}  // namespace kokomoe::detail
