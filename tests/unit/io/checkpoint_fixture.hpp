// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/io/checkpoint.hpp"

#include <cstring>
#include <memory>

namespace kokomoe::test {

/// A small store with every kind of tensor: decayed, not decayed, expert, frozen, state.
template <class T>
std::unique_ptr<ParameterStore<T>> make_store(std::uint64_t seed, std::size_t width = 5) {
  auto store = std::make_unique<ParameterStore<T>>();
  const auto add = [&](const char* name, std::vector<std::size_t> shape, bool decay, bool expert,
                       bool state, std::vector<std::string> axes = {}) {
    ParameterSpec spec;
    spec.name = name;
    spec.shape = std::move(shape);
    spec.initializer = Initializer::normal(1);
    spec.decay = decay;
    spec.expert = expert;
    spec.state = state;
    spec.axes = std::move(axes);
    store->add(spec);
  };
  add("embedding.weight", {11, width}, true, false, false);
  add("blocks.0.norm.gain", {width}, false, false, false);
  add("blocks.0.moe.experts.first.weight", {3, width, 4}, true, true, false,
      {"expert", "hidden", "channel"});
  add("blocks.0.moe.experts.bias", {3, 4}, false, true, false);
  add("blocks.0.moe.router.weight", {3, width}, true, false, false);
  add("frozen.weight", {2, 3}, true, false, false);
  add("blocks.0.moe.router.average", {3}, false, false, true);
  store->freeze("frozen.*");
  store->allocate(ExecutionSpace(), seed);
  // Moments that are not zero.
  using Group = typename ParameterStore<T>::Group;
  for (const Group group : {Group::replicated, Group::expert}) {
    auto& buffer = store->buffer(group);
    Kokkos::deep_copy(buffer.moment1, T(0.25) * static_cast<T>(seed));
    Kokkos::deep_copy(buffer.moment2, T(1) / static_cast<T>(3 + seed));
  }
  return store;
}

/// All of a store's bits that a checkpoint keeps.
template <class T>
std::string bits_of(const ParameterStore<T>& store) {
  using Group = typename ParameterStore<T>::Group;
  std::string bits;
  for (const Group group : {Group::replicated, Group::expert, Group::state}) {
    const auto& buffer = store.buffer(group);
    const Vector<T> views[] = {buffer.value, buffer.moment1, buffer.moment2};
    for (const Vector<T>& view : views) {
      const auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
      bits.append(reinterpret_cast<const char*>(host.data()), host.size() * sizeof(T));
    }
  }
  return bits;
}

inline CheckpointMeta make_meta(std::int64_t step) {
  CheckpointMeta meta;
  meta.step = step;
  meta.deck = "[run]\nseed = 1\n";
  meta.counters["tokens"] = std::int64_t(1) << 60;
  meta.numbers["best"] = 1.0 / 3;
  return meta;
}

template <class T>
void save(const std::string& folder, const ParameterStore<T>& store, std::int64_t step,
          bool best = false, int keep = 2) {
  save_checkpoint(folder, store, make_meta(step), Communicator(), best, keep);
}

}  // namespace kokomoe::test
