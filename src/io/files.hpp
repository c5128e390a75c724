// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <string>

namespace kokomoe::detail {

/// A whole file that a user named. InputError "<path>: <what> not found", is a folder, is larger
/// than `largest` bytes, or cannot be read.
std::string read_input_file(const std::string& path, const std::string& what, std::size_t largest);

/// Makes a folder that a user named when it is missing, and sees that files can be made in it.
/// InputError "<path>: error: the <what> cannot be made: <reason>", or cannot be written to.
void make_writable_folder(const std::string& path, const std::string& what);

/// Why this process may not write to what is there, "" when it may.
std::string write_problem(const std::string& path);

}  // namespace kokomoe::detail
