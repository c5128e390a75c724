// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <string>

namespace kokomoe::detail {

/// A whole file that a user named. InputError "<path>: <what> not found", is a folder, is larger
/// than `largest` bytes, or cannot be read.
std::string read_input_file(const std::string& path, const std::string& what, std::size_t largest);

}  // namespace kokomoe::detail
