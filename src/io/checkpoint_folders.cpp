// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/checkpoint_folders.hpp"

#include "io/disk.hpp"
#include "io/manifest.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <set>
#include <tuple>

namespace kokomoe {

namespace fs = std::filesystem;

namespace detail {

namespace {

constexpr std::string_view old_suffix = ".old";

/// N of "step_N" or "step_N.old"; false for every other name.
bool parse_step(std::string name, StepFolder& result) {
  result.replaced = name.ends_with(old_suffix);
  if (result.replaced) name.resize(name.size() - old_suffix.size());
  if (!name.starts_with("step_")) return false;
  const char* const begin = name.data() + 5;
  const char* const end = name.data() + name.size();
  const auto [stop, code] = std::from_chars(begin, end, result.step);
  return code == std::errc() && stop == end && step_name(result.step) == name;
}

std::vector<std::string> children(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code code;
  for (fs::directory_iterator it(folder, code), end; !code && it != end; it.increment(code))
    names.push_back(it->path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

std::string step_name(std::int64_t step) {
  return "step_" + std::to_string(step);
}

std::string without_slash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

std::vector<StepFolder> list_steps(const std::string& folder) {
  std::vector<StepFolder> steps;
  for (const std::string& name : children(folder)) {
    StepFolder step;
    std::error_code code;
    if (!parse_step(name, step)) continue;
    step.path = folder + "/" + name;
    if (fs::is_directory(step.path, code)) steps.push_back(std::move(step));
  }
  std::sort(steps.begin(), steps.end(), [](const StepFolder& a, const StepFolder& b) {
    return std::make_tuple(-a.step, a.replaced) < std::make_tuple(-b.step, b.replaced);
  });
  return steps;
}

std::string read_pointer(const std::string& path) {
  std::ifstream file(path);
  std::string name;
  std::getline(file, name);
  StepFolder step;
  return parse_step(name, step) && !step.replaced ? name : "";
}

void recover_folder(const std::string& folder) {
  for (const std::string& name : children(folder)) {
    const std::string path = folder + "/" + name;
    if (name == "latest.tmp" || name == "best.tmp") fs::remove(path);
    if (name.starts_with("step_") && name.ends_with(".tmp")) remove_folder(path);
  }
  for (const StepFolder& step : list_steps(folder)) {
    if (!step.replaced) continue;
    const std::string path = folder + "/" + step_name(step.step);
    if (fs::exists(path))
      remove_folder(step.path);
    else
      rename_path(step.path, path);
  }
}

void prune_steps(const std::string& folder, std::int64_t current, int keep) {
  const std::set<std::string> named = {read_pointer(folder + "/latest"),
                                       read_pointer(folder + "/best")};
  std::vector<StepFolder> steps = list_steps(folder);
  // After going back to an earlier step, later ones belong to a past that is given up.
  std::stable_partition(steps.begin(), steps.end(),
                        [&](const StepFolder& step) { return step.step <= current; });
  int kept = 0;
  for (const StepFolder& step : steps) {
    if (step.replaced || kept++ < std::max(keep, 2) || named.count(step_name(step.step)) != 0)
      continue;
    remove_folder(step.path);
  }
}

void with_alternative(const std::string& step_folder, const std::function<void()>& work) {
  try {
    work();
  } catch (const DamagedCheckpoint& error) {
    std::string message = error.what();
    const fs::path path = fs::path(step_folder).lexically_normal();
    std::string folder = path.parent_path().string();
    if (folder.empty()) folder = ".";
    for (const StepFolder& step : list_steps(folder)) {
      if (fs::path(step.path).filename() == path.filename() || !is_whole(step.path)) continue;
      throw InputError(message + "\n  " + step.path + " is whole: use -r " + step.path);
    }
    throw InputError(message + "\n  no other checkpoint in " + folder + " is whole");
  }
}

}  // namespace detail

std::string resolve_checkpoint(const std::string& run_or_step) {
  const std::string path = detail::without_slash(run_or_step);
  std::error_code code;
  const fs::file_status status = fs::status(path, code);
  if (!fs::exists(status)) throw InputError(path + ": error: run or checkpoint not found");
  std::string folder, pointer;
  if (fs::is_regular_file(status)) {  // `latest` or `best`
    folder = fs::path(path).parent_path().string();
    if (folder.empty()) folder = ".";
    pointer = path;
  } else if (fs::exists(path + "/manifest.json", code) || fs::exists(path + "/state.h5", code)) {
    return path;
  } else {
    folder = fs::is_directory(path + "/checkpoints", code) ? path + "/checkpoints" : path;
    pointer = folder + "/latest";
  }
  const std::vector<detail::StepFolder> steps = detail::list_steps(folder);
  const bool pointer_exists = fs::exists(pointer, code);
  if (steps.empty())
    throw InputError(path +
                     ": error: no checkpoint here: neither a step folder, nor a run that "
                     "has saved one");
  if (!pointer_exists) return steps.front().path;  // stopped between the first save's two renames
  const std::string name = detail::read_pointer(pointer);
  for (const detail::StepFolder& step : steps)
    if (!name.empty() && detail::step_name(step.step) == name) return step.path;
  throw InputError(pointer + ": error: does not name a checkpoint that is there; the newest is " +
                   steps.front().path);
}

bool has_checkpoint(const std::string& run_folder) {
  return !detail::list_steps(detail::without_slash(run_folder) + "/checkpoints").empty();
}

}  // namespace kokomoe
