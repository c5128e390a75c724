// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/checkpoint_folders.hpp"

#include "io/disk.hpp"
#include "io/manifest.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
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

[[noreturn]] void fail_read(const std::string& path, const std::error_code& code) {
  throw Error(path + ": error: cannot be read: " + code.message());
}

/// Names in a folder; none when there is no such folder.
std::vector<std::string> children(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code code;
  for (fs::directory_iterator it(folder, code), end; !code && it != end; it.increment(code))
    names.push_back(it->path().filename().string());
  if (code && code != std::errc::no_such_file_or_directory) fail_read(folder, code);
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
    const fs::file_status status = fs::status(step.path, code);
    if (status.type() == fs::file_type::none) fail_read(step.path, code);
    if (fs::is_directory(status)) steps.push_back(std::move(step));
  }
  std::sort(steps.begin(), steps.end(), [](const StepFolder& a, const StepFolder& b) {
    return std::make_tuple(-a.step, a.replaced) < std::make_tuple(-b.step, b.replaced);
  });
  return steps;
}

std::vector<StepFolder> steps_to_read(const std::string& folder) {
  try {
    return list_steps(folder);
  } catch (const Error& error) {
    throw InputError(error.what());
  }
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
    std::vector<StepFolder> steps;
    try {
      steps = list_steps(folder);
    } catch (const Error& unreadable) {
      throw InputError(message + "\n  " + unreadable.what());
    }
    for (const StepFolder& step : steps) {
      if (fs::path(step.path).filename() == path.filename() || !is_whole(step.path)) continue;
      throw InputError(message + "\n  " + step.path + " is whole: use -r " + step.path);
    }
    throw InputError(message + "\n  no other checkpoint in " + folder + " is whole");
  }
}

}  // namespace detail

namespace {

fs::file_status status_of(const std::string& path) {
  std::error_code code;
  const fs::file_status status = fs::status(path, code);
  if (status.type() == fs::file_type::none)
    throw InputError(path + ": error: cannot be read: " + code.message());
  return status;
}

/// What is wrong with `latest` or `best`, and which checkpoints can be named instead.
std::string describe_stale(const std::string& pointer,
                           const std::vector<detail::StepFolder>& steps) {
  errno = 0;
  std::ifstream file(pointer);
  std::string name;
  std::string text = pointer + ": error: ";
  if (!file.is_open())
    text += std::string("cannot be read: ") + std::strerror(errno);
  else if (!std::getline(file, name) || name.empty())
    text += "is empty";
  else if (detail::read_pointer(pointer).empty())
    text += "does not name a checkpoint";
  else
    text += "names " + name + ", which is not there";
  text += "; there is ";
  constexpr std::size_t shown = 8;
  for (std::size_t i = 0; i < std::min(shown, steps.size()); ++i)
    text += (i > 0 ? ", " : "") + fs::path(steps[i].path).filename().string();
  if (steps.size() > shown) text += ", ...";
  return text + ": use -r " + steps.front().path;
}

}  // namespace

std::string resolve_checkpoint(const std::string& run_or_step) {
  const std::string path = detail::without_slash(run_or_step);
  const fs::file_status status = status_of(path);
  if (!fs::exists(status)) throw InputError(path + ": error: run or checkpoint not found");
  std::string folder, pointer;
  if (fs::is_regular_file(status)) {  // `latest` or `best`
    folder = fs::path(path).parent_path().string();
    if (folder.empty()) folder = ".";
    pointer = path;
  } else if (fs::exists(status_of(path + "/manifest.json")) ||
             fs::exists(status_of(path + "/state.h5"))) {
    return path;
  } else {
    folder = fs::exists(status_of(path + "/checkpoints")) ? path + "/checkpoints" : path;
    pointer = folder + "/latest";
  }
  const std::vector<detail::StepFolder> steps = detail::steps_to_read(folder);
  const bool pointer_exists = fs::exists(status_of(pointer));
  if (steps.empty())
    throw InputError(path +
                     ": error: no checkpoint here: neither a step folder, nor a run that "
                     "has saved one");
  if (!pointer_exists) return steps.front().path;  // stopped between the first save's two renames
  const std::string name = detail::read_pointer(pointer);
  for (const detail::StepFolder& step : steps)
    if (!name.empty() && detail::step_name(step.step) == name) return step.path;
  throw InputError(describe_stale(pointer, steps));
}

bool has_checkpoint(const std::string& run_folder) {
  return !detail::steps_to_read(detail::without_slash(run_folder) + "/checkpoints").empty();
}

}  // namespace kokomoe
