// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/checkpoint_folders.hpp"
#include "io/digest.hpp"
#include "io/disk.hpp"
#include "io/state_file.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/parallel/agree.hpp"

#include <exception>
#include <filesystem>
#include <type_traits>

namespace kokomoe {

namespace fs = std::filesystem;

namespace {

template <class T>
void add_tensor(detail::StateWriter& writer, const std::string& group, const Vector<T>& flat,
                const typename ParameterStore<T>::Entry& entry) {
  const Vector<T> device(flat.data() + entry.offset, entry.size);
  const auto host = Kokkos::create_mirror_view_and_copy(
      Kokkos::view_alloc(Kokkos::HostSpace{}, "kokomoe::io::checkpoint"), device);
  detail::TensorSource source;
  source.name = group + "/" + entry.spec.name;
  source.shape = entry.spec.shape;
  source.dtype = std::is_same_v<T, float> ? "float32" : "float64";
  source.expert = entry.spec.expert;
  source.data = host.data();
  writer.add(source);
}

template <class T>
std::vector<detail::DatasetRecord> write_state(const std::string& path, std::int64_t step,
                                               const ParameterStore<T>& store) {
  using Group = typename ParameterStore<T>::Group;
  detail::StateWriter writer(path, step);
  for (const auto& entry : store.entries())
    add_tensor<T>(writer, entry.group == Group::state ? "router_state" : "parameters",
                  store.buffer(entry.group).value, entry);
  for (const auto& entry : store.entries()) {
    if (entry.group == Group::state || entry.frozen) continue;
    add_tensor<T>(writer, "optimizer/m", store.buffer(entry.group).moment1, entry);
    add_tensor<T>(writer, "optimizer/v", store.buffer(entry.group).moment2, entry);
  }
  return writer.close();
}

template <class T>
void write_step(const std::string& folder, const ParameterStore<T>& store,
                const CheckpointMeta& meta, bool best, int keep) {
  const std::string name = detail::step_name(meta.step);
  const std::string step = folder + "/" + name;
  const std::string aside = step + ".tmp";
  fs::create_directories(folder);
  detail::recover_folder(folder);
  fs::create_directory(aside);

  detail::Manifest manifest;
  manifest.meta = meta;
  manifest.datasets = write_state(aside + "/state.h5", meta.step, store);
  detail::sync_file(aside + "/state.h5");
  const detail::FileDigest digest = detail::digest_file(aside + "/state.h5");
  manifest.state_bytes = digest.bytes;
  manifest.state_digest = digest.digest;
  detail::write_file(aside + "/manifest.json", detail::manifest_text(manifest));
  detail::sync_folder(aside);

  // A step that is there already steps aside by name only: one of the two is always whole.
  const bool replaces = fs::exists(step);
  if (replaces) detail::rename_path(step, step + ".old");
  detail::rename_path(aside, step);
  detail::sync_folder(folder);
  detail::replace_file(folder + "/latest", name + "\n");
  if (best) detail::replace_file(folder + "/best", name + "\n");
  detail::sync_folder(folder);
  if (replaces) detail::remove_folder(step + ".old");
  detail::prune_steps(folder, meta.step, keep);
}

}  // namespace

template <class T>
void save_checkpoint(const std::string& folder_name, const ParameterStore<T>& store,
                     const CheckpointMeta& meta, const Communicator& communicator, bool best,
                     int keep) {
  const Region region(KOKOMOE_LABEL("io::save_checkpoint"));
  if (!store.allocated()) fail("save_checkpoint", "the parameter store is not allocated");
  for (const auto& entry : store.entries())
    if (entry.local_shape != entry.spec.shape)
      fail("save_checkpoint",
           "\"" + entry.spec.name + "\" is sharded, which this version cannot save");
  if (meta.step < 0) fail("save_checkpoint", "step " + std::to_string(meta.step));
  ExecutionSpace().fence(KOKOMOE_LABEL("io::save_checkpoint"));
  run_on_root(communicator, [&] {
    const std::string folder = detail::without_slash(folder_name);
    try {
      write_step(folder, store, meta, best, keep);
    } catch (const InputError&) {
      throw;  // built without HDF5
    } catch (const std::exception& error) {
      std::error_code code;
      fs::remove_all(folder + "/" + detail::step_name(meta.step) + ".tmp", code);
      std::string message = std::string("cannot save checkpoint: ") + error.what();
      const fs::space_info space = fs::space(folder, code);
      const double needed = 3.0 * static_cast<double>(store.parameters() * sizeof(T));
      if (!code && static_cast<double>(space.available) < 1.1 * needed)
        message += "\n  the disk of " + folder + " has " + std::to_string(space.available >> 20) +
                   " MiB left, a checkpoint takes about " +
                   std::to_string((static_cast<std::uint64_t>(needed) >> 20) + 1) +
                   " MiB: free that much, or lower checkpoint/keep; earlier checkpoints are whole";
      throw Error(message);
    }
  });
}

template void save_checkpoint(const std::string&, const ParameterStore<float>&,
                              const CheckpointMeta&, const Communicator&, bool, int);
template void save_checkpoint(const std::string&, const ParameterStore<double>&,
                              const CheckpointMeta&, const Communicator&, bool, int);

}  // namespace kokomoe
