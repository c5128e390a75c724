// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parameters/parameter_store.hpp"
#include "support/catch.hpp"

#include <cstdint>
#include <memory>
#include <string>

namespace kokomoe::test {

/// What element `index` of a whole tensor must be: known without any store or file. `salt` tells
/// states apart. Exact in float.
inline double known_value(const std::string& name, int moment, std::size_t index, int salt) {
  std::uint64_t h = 1469598103934665603u + static_cast<std::uint64_t>(31 * salt + moment);
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 1099511628211u;
  h = (h ^ index) * 0x9e3779b97f4a7c15u;
  return static_cast<double>(static_cast<std::int32_t>(h >> 41)) / 1024.0;
}

/// A store with every kind of tensor for `ranks` expert ranks, of which this is `rank`: experts of
/// 3, 2 and 1 axes, replicated, frozen, state; `experts` of them.
template <class T>
std::unique_ptr<ParameterStore<T>> make_sharded(int rank, int ranks, std::size_t experts) {
  auto store = std::make_unique<ParameterStore<T>>(rank, ranks);
  const auto add = [&](const char* name, std::vector<std::size_t> shape, bool expert, bool state) {
    ParameterSpec spec;
    spec.name = name;
    spec.shape = std::move(shape);
    spec.expert = expert;
    spec.state = state;
    spec.axes = {expert ? "expert" : "row"};
    store->add(spec);
  };
  add("embedding.weight", {13, 6}, false, false);
  add("moe.experts.w1", {experts, 7, 6}, true, false);
  add("norm.weight", {6}, false, false);
  add("moe.experts.b1", {experts, 7}, true, false);
  add("moe.experts.scale", {experts}, true, false);
  add("frozen.experts.w", {experts, 2, 3}, true, false);
  add("frozen.weight", {2, 3}, false, false);
  add("moe.router.bias", {experts}, true, true);
  store->freeze("frozen.*");
  store->allocate(ExecutionSpace(), 1);
  return store;
}

/// Calls `visit(value, known value)` for every element that this rank keeps.
template <class T, class Visit>
void each_element(const ParameterStore<T>& store, int salt, const Visit& visit) {
  using Group = typename ParameterStore<T>::Group;
  for (const auto& entry : store.entries()) {
    const auto& buffer = store.buffer(entry.group);
    const auto [first_row, end_row, total] = store.experts(static_cast<int>(entry.spec.shape[0]));
    std::size_t row = 1;
    for (std::size_t i = 1; i < entry.spec.shape.size(); ++i) row *= entry.spec.shape[i];
    const std::size_t first =
        entry.group == Group::expert ? row * static_cast<std::size_t>(first_row) : 0;
    const bool trained = entry.group != Group::state && !entry.frozen;
    const Vector<T> flats[3] = {buffer.value, buffer.moment1, buffer.moment2};
    for (int moment = 0; moment < (trained ? 3 : 1); ++moment)
      for (std::size_t i = 0; i < entry.size; ++i)
        visit(flats[moment](entry.offset + i),
              static_cast<T>(known_value(entry.spec.name, moment, first + i, salt)));
  }
}

template <class T>
void fill_known(const ParameterStore<T>& store, int salt) {
  each_element(store, salt, [](T& value, T known) { value = known; });
}

/// Elements that are not what they must be.
template <class T>
int count_wrong(const ParameterStore<T>& store, int salt) {
  int wrong = 0;
  each_element(store, salt, [&](T& value, T known) { wrong += value == known ? 0 : 1; });
  return wrong;
}

}  // namespace kokomoe::test
