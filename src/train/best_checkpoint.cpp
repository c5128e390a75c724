// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "train/best_checkpoint.hpp"

#include "io/checkpoint_folders.hpp"
#include "io/disk.hpp"
#include "kokomoe/core/error.hpp"

#include <filesystem>

namespace kokomoe::detail {

namespace fs = std::filesystem;

namespace {

bool is_there(const std::string& checkpoints, const std::string& name) {
  for (const StepFolder& step : list_steps(checkpoints))
    if (step_name(step.step) == name) return true;
  return false;
}

/// N of "step_N"; a name that read_pointer gave.
std::int64_t step_of(const std::string& name) {
  return std::stoll(name.substr(name.find('_') + 1));
}

void forget(const std::string& checkpoints) {
  std::error_code code;
  fs::remove(checkpoints + "/best", code);
  if (code) fail(checkpoints + "/best", "cannot be removed: " + code.message());
  sync_folder(checkpoints);
}

}  // namespace

bool go_back_to_best(const std::string& checkpoints, std::int64_t step, std::int64_t best_step) {
  const std::string named = read_pointer(checkpoints + "/best");
  const std::string wanted = best_step > 0 ? step_name(best_step) : "";
  if (!wanted.empty() && is_there(checkpoints, wanted)) {
    if (named != wanted) {
      replace_file(checkpoints + "/best", wanted + "\n");
      sync_folder(checkpoints);
    }
    return true;
  }
  if (named.empty()) return wanted.empty();
  if (step_of(named) <= step) return true;
  forget(checkpoints);
  return false;
}

}  // namespace kokomoe::detail
