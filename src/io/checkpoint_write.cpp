// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/checkpoint_folders.hpp"
#include "io/disk.hpp"
#include "io/state_save.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/parallel/agree.hpp"

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

/// What can be done about it, where the disk is the reason.
std::string advice(const std::string& folder, double needed) {
  std::error_code code;
  const fs::space_info space = fs::space(folder, code);
  if (code || static_cast<double>(space.available) >= 1.1 * needed) return "";
  return "\n  the disk of " + folder + " has " + std::to_string(space.available >> 20) +
         " MiB left, a checkpoint takes about " +
         std::to_string((static_cast<std::uint64_t>(needed) >> 20) + 1) +
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
      std::error_code code;
      fs::remove_all(aside, code);
      throw Error(message +
                  advice(folder, 3.0 * static_cast<double>(store.parameters() * sizeof(T))));
    });
  }
}

template void save_checkpoint(const std::string&, const ParameterStore<float>&,
                              const CheckpointMeta&, const Communicator&, bool, int);
template void save_checkpoint(const std::string&, const ParameterStore<double>&,
                              const CheckpointMeta&, const Communicator&, bool, int);

}  // namespace kokomoe
