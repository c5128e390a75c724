// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/checkpoint_folders.hpp"
#include "io/disk.hpp"
#include "io/state_save.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/parallel/agree.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>

namespace kokomoe {

namespace fs = std::filesystem;

namespace {

/// `state` is aside already: the manifest beside it, and the names that make it count.
void finish_step(const std::string& folder, const detail::Manifest& manifest, bool best, int keep) {
  const std::string name = detail::step_name(manifest.meta.step);
  const std::string step = folder + "/" + name;
  const std::string aside = step + ".tmp";
  detail::write_file(aside + "/manifest.json", detail::manifest_text(manifest));
  detail::sync_folder(aside);

  // A step that is there already steps aside by name only: one of the two is always whole.
  const bool replaces = fs::exists(step);
  if (replaces) detail::rename_path(step, step + ".old");
  // `latest` comes last: until then a resume goes back to the save before, evaluates again, and
  // finds the best again. A first save counts once its folder is there.
  const bool first = !fs::exists(folder + "/latest");
  if (best && first) detail::replace_file(folder + "/best", name + "\n");
  detail::rename_path(aside, step);
  detail::sync_folder(folder);
  if (best && !first) detail::replace_file(folder + "/best", name + "\n");
  detail::replace_file(folder + "/latest", name + "\n");
  detail::sync_folder(folder);
  if (replaces) detail::remove_folder(step + ".old");
  detail::prune_steps(folder, manifest.meta.step, keep);
}

/// Bytes of disk that the files of a folder hold.
std::uint64_t bytes_held(const std::string& folder) {
  std::uint64_t bytes = 0;
  std::error_code code;
  for (fs::directory_iterator it(folder, code), end; !code && it != end; it.increment(code)) {
    struct stat status = {};
    if (::lstat(it->path().c_str(), &status) == 0)
      bytes += 512 * static_cast<std::uint64_t>(status.st_blocks);
  }
  return bytes;
}

/// What can be done about it, where the disk is the reason: it says so, or has not got the room.
/// `aside` is what was made so far, which goes; `data` the bytes of all tensors.
std::string advice(const std::string& folder, const std::string& aside, std::uint64_t data,
                   const std::string& reason) {
  std::error_code code;
  const fs::space_info space = fs::space(folder, code);
  if (code) return "";
  // state.h5 has its size, with all that HDF5 adds, from its creation on.
  const std::uintmax_t state = fs::file_size(aside + "/state.h5", code);
  const std::uint64_t needed = std::max<std::uint64_t>(data, code ? 0 : state);
  const std::uint64_t room = space.available + bytes_held(aside);
  const bool says_so = reason.find(std::strerror(ENOSPC)) != std::string::npos ||
                       reason.find(std::strerror(EDQUOT)) != std::string::npos;
  if (!says_so && room >= needed) return "";
  return "\n  the disk of " + folder + " has " + std::to_string(room >> 20) +
         " MiB left, a checkpoint takes about " +
         std::to_string(((needed + needed / 32) >> 20) + 1) +
         " MiB: free that much, or lower checkpoint/keep; earlier checkpoints are whole";
}

}  // namespace

template <class T>
void save_checkpoint(const std::string& folder_name, const ParameterStore<T>& store,
                     const CheckpointMeta& meta, const Communicator& communicator, bool best,
                     int keep) {
  const Region region(KOKOMOE_LABEL("io::save_checkpoint"));
  detail::require_layout("save_checkpoint", store, communicator);
  if (meta.step < 0) fail("save_checkpoint", "step " + std::to_string(meta.step));
  ExecutionSpace().fence(KOKOMOE_LABEL("io::save_checkpoint"));
  const std::string folder = detail::without_slash(folder_name);
  const std::string aside = folder + "/" + detail::step_name(meta.step) + ".tmp";
  try {
    run_on_root(communicator, [&] {
      fs::create_directories(folder);
      detail::recover_folder(folder);
      fs::create_directory(aside);
    });
    const detail::Manifest manifest =
        detail::save_state(aside + "/state.h5", store, meta, communicator);
    run_on_root(communicator, [&] { finish_step(folder, manifest, best, keep); });
  } catch (const InputError&) {
    throw;  // built without HDF5
  } catch (const std::exception& error) {
    // All ranks are here: each part above fails on all of them or on none.
    const std::string message = std::string("cannot save checkpoint: ") + error.what();
    run_on_root(communicator, [&] {
      const std::string help = advice(folder, aside, 3 * store.parameters() * sizeof(T), message);
      std::error_code code;
      fs::remove_all(aside, code);
      throw Error(message + help);
    });
  }
}

template void save_checkpoint(const std::string&, const ParameterStore<float>&,
                              const CheckpointMeta&, const Communicator&, bool, int);
template void save_checkpoint(const std::string&, const ParameterStore<double>&,
                              const CheckpointMeta&, const Communicator&, bool, int);

}  // namespace kokomoe
