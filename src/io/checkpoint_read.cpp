// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/checkpoint_folders.hpp"
#include "io/state_file.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/parallel/agree.hpp"

#include <set>
#include <type_traits>

namespace kokomoe {

namespace {

/// One tensor of the store and what it is called in the file.
template <class T>
struct Slot {
  std::string name;
  const std::vector<std::size_t>* shape = nullptr;
  Vector<T> values;
};

template <class T>
std::vector<Slot<T>> slots_of(ParameterStore<T>& store, bool with_moments) {
  using Group = typename ParameterStore<T>::Group;
  std::vector<Slot<T>> slots;
  const auto add = [&](const std::string& group, const auto& entry, const Vector<T>& flat) {
    slots.push_back({group + "/" + entry.spec.name, &entry.spec.shape,
                     Vector<T>(flat.data() + entry.offset, entry.size)});
  };
  for (const auto& entry : store.entries()) {
    const auto& buffer = store.buffer(entry.group);
    add(entry.group == Group::state ? "router_state" : "parameters", entry, buffer.value);
    if (!with_moments || entry.group == Group::state || entry.frozen) continue;
    add("optimizer/m", entry, buffer.moment1);
    add("optimizer/v", entry, buffer.moment2);
  }
  return slots;
}

[[noreturn]] void refuse(const std::string& path, const std::string& name, const std::string& why) {
  throw InputError(path + ": error: /" + name + ": " + why);
}

/// Names, types and shapes of all tensors, before any is read.
template <class T>
void check_headers(const detail::StateReader& reader, const std::vector<Slot<T>>& slots,
                   bool with_moments) {
  const char* const dtype = std::is_same_v<T, float> ? "float32" : "float64";
  const std::vector<std::string> found = reader.names();
  const std::set<std::string> names(found.begin(), found.end());
  std::set<std::string> wanted;
  for (const Slot<T>& slot : slots) {
    wanted.insert(slot.name);
    if (names.count(slot.name) == 0) {
      const std::string near = nearest_name(slot.name, names);
      refuse(reader.path(), slot.name,
             "is not in the file, but the deck's model has it" +
                 (near.empty() ? "" : "; the file has /" + near));
    }
    const detail::TensorHeader header = reader.header(slot.name);
    if (header.dtype != dtype)
      refuse(reader.path(), slot.name, "is " + header.dtype + ", but the model is " + dtype);
    if (header.shape != *slot.shape)
      refuse(reader.path(), slot.name,
             "has shape " + detail::shape_text(header.shape) + ", but the deck's model has " +
                 detail::shape_text(*slot.shape));
  }
  for (const std::string& name : found)
    if (wanted.count(name) == 0 && (with_moments || !name.starts_with("optimizer/")))
      refuse(reader.path(), name, "is in the file, but the deck's model has no such tensor");
}

template <class T>
void read_step(const std::string& step_folder, const detail::Manifest& manifest,
               std::vector<Slot<T>>& slots, bool with_moments) {
  detail::verify_state(step_folder, manifest);
  const detail::StateReader reader(step_folder + "/state.h5");
  if (reader.step() != manifest.meta.step)
    throw detail::DamagedCheckpoint(reader.path() + ": error: is of step " +
                                    std::to_string(reader.step()) + ", its manifest of step " +
                                    std::to_string(manifest.meta.step));
  check_headers(reader, slots, with_moments);
  // Twice, so that the store stays as it is unless all blocks have their digests; one tensor at a
  // time, so that no second copy of the model is held.
  std::vector<std::byte> bytes;
  for (const Slot<T>& slot : slots) reader.read(slot.name, bytes);
  for (const Slot<T>& slot : slots) {
    reader.read(slot.name, bytes);
    if (bytes.size() != slot.values.size() * sizeof(T))
      refuse(reader.path(), slot.name, "does not fill the model's tensor");
    const Kokkos::View<const T*, Kokkos::LayoutRight, Kokkos::HostSpace> host(
        reinterpret_cast<const T*>(bytes.data()), slot.values.size());
    Kokkos::deep_copy(slot.values, host);
  }
}

/// The root's tensors to every rank.
template <class T>
void share(const std::vector<Slot<T>>& slots, const Communicator& communicator) {
  if (communicator.size() == 1) return;
  for (const Slot<T>& slot : slots) {
    const auto host = Kokkos::create_mirror_view_and_copy(
        Kokkos::view_alloc(Kokkos::HostSpace{}, "kokomoe::io::checkpoint"), slot.values);
    communicator.broadcast(host.data(), host.size() * sizeof(T));
    Kokkos::deep_copy(slot.values, host);
  }
}

}  // namespace

template <class T>
CheckpointMeta load_checkpoint(const std::string& step_folder, ParameterStore<T>& store,
                               const Communicator& communicator, bool with_moments) {
  const Region region(KOKOMOE_LABEL("io::load_checkpoint"));
  if (!store.allocated()) fail("load_checkpoint", "the parameter store is not allocated");
  for (const auto& entry : store.entries())
    if (entry.local_shape != entry.spec.shape)
      fail("load_checkpoint",
           "\"" + entry.spec.name + "\" is sharded, which this version cannot load");
  const std::string step = detail::without_slash(step_folder);
  std::vector<Slot<T>> slots = slots_of(store, with_moments);
  std::string text;
  run_on_root(communicator, [&] {
    detail::with_alternative(step, [&] {
      text = detail::read_manifest_text(step);
      read_step(step, detail::parse_manifest(text, step + "/manifest.json"), slots, with_moments);
    });
  });
  text = communicator.broadcast(text);
  share(slots, communicator);
  return detail::parse_manifest(text, step + "/manifest.json").meta;
}

template CheckpointMeta load_checkpoint(const std::string&, ParameterStore<float>&,
                                        const Communicator&, bool);
template CheckpointMeta load_checkpoint(const std::string&, ParameterStore<double>&,
                                        const Communicator&, bool);

CheckpointMeta read_manifest(const std::string& step_folder) {
  const std::string step = detail::without_slash(step_folder);
  CheckpointMeta meta;
  detail::with_alternative(step, [&] {
    meta = detail::parse_manifest(detail::read_manifest_text(step), step + "/manifest.json").meta;
  });
  return meta;
}

}  // namespace kokomoe
