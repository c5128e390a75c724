// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace kokomoe::detail {

struct StepFolder {
  std::int64_t step = 0;
  std::string path;
  bool replaced = false;  ///< step_N.old, the former step_N, while a new one takes its place
};

/// Complete step folders of a checkpoints folder, the highest step first, step_N before step_N.old;
/// none when there is no such folder. Throws Error when it cannot be read.
std::vector<StepFolder> list_steps(const std::string& folder);
/// The same for a folder that a user named: throws InputError.
std::vector<StepFolder> steps_to_read(const std::string& folder);

std::string step_name(std::int64_t step);

/// The folder's name in text file `latest` or `best`, or "" when missing or nonsense.
std::string read_pointer(const std::string& path);

/// Tidies what a crash left: removes step_N.tmp, brings step_N.old back or removes it.
void recover_folder(const std::string& folder);

/// Keeps the `keep` (at least two) newest steps up to `current`, `latest` and `best`.
void prune_steps(const std::string& folder, std::int64_t current, int keep);

/// Runs `work` on a step folder; to an error about damage it adds which other checkpoint is whole.
void with_alternative(const std::string& step_folder, const std::function<void()>& work);

/// A path without slashes at its end.
std::string without_slash(std::string path);

}  // namespace kokomoe::detail
