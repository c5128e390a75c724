// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "io/together.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/parallel/communicator.hpp"
#include "kokomoe/parameters/parameter_store.hpp"

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

namespace kokomoe::detail {

/// One tensor of the store: what it is called in the file, and what this rank holds of it.
template <class T>
struct Slot {
  std::string name;  ///< "parameters/NAME"
  const ParameterSpec* spec = nullptr;
  bool sharded = false;  ///< rows of the first axis lie on different ranks
  std::size_t row = 0;   ///< first row that this rank holds
  Vector<T> values;      ///< its rows, flat
};

template <class T>
const char* dtype_name() {
  return std::is_same_v<T, float> ? "float32" : "float64";
}

/// Values of all tensors and, on demand, the moments of those that are trained.
template <class T>
std::vector<Slot<T>> slots_of(const ParameterStore<T>& store, bool with_moments) {
  using Store = ParameterStore<T>;
  using Group = typename Store::Group;
  std::vector<Slot<T>> slots;
  const auto add = [&](const char* group, const typename Store::Entry& entry,
                       const Vector<T>& flat) {
    Slot<T> slot;
    slot.name = std::string(group) + "/" + entry.spec.name;
    slot.spec = &entry.spec;
    slot.sharded = entry.group == Group::expert && store.expert_ranks() > 1;
    if (slot.sharded)
      slot.row =
          static_cast<std::size_t>(store.experts(static_cast<int>(entry.spec.shape[0])).begin);
    slot.values = Vector<T>(flat.data() + entry.offset, entry.size);
    slots.push_back(std::move(slot));
  };
  for (const auto& entry : store.entries())
    add(entry.group == Group::state ? "router_state" : "parameters", entry,
        store.buffer(entry.group).value);
  if (!with_moments) return slots;
  for (const auto& entry : store.entries()) {
    if (entry.group == Group::state || entry.frozen) continue;
    add("optimizer/m", entry, store.buffer(entry.group).moment1);
    add("optimizer/v", entry, store.buffer(entry.group).moment2);
  }
  return slots;
}

/// Rows of the first axis that expert rank `rank` holds of a slot.
template <class T>
ExpertRange rows_held(const Slot<T>& slot, int rank, int expert_ranks) {
  return owned_experts(static_cast<int>(slot.spec->shape[0]), rank, expert_ranks);
}

/// Throws on every rank unless the store is allocated and its places make expert groups of
/// consecutive ranks. Collective.
template <class T>
void require_layout(const char* what, const ParameterStore<T>& store,
                    const Communicator& communicator) {
  Together ranks(communicator);
  const std::int64_t most = communicator.all_reduce_max(store.expert_ranks());
  ranks.attempt([&] {
    if (!store.allocated()) fail(what, "the parameter store is not allocated");
    const int expert_ranks = store.expert_ranks();
    if (expert_ranks != most || communicator.size() % expert_ranks != 0 ||
        store.expert_rank() != communicator.rank() % expert_ranks)
      fail(what, "the store of rank " + std::to_string(communicator.rank()) + " of " +
                     std::to_string(communicator.size()) + " is expert rank " +
                     std::to_string(store.expert_rank()) + " of " + std::to_string(expert_ranks) +
                     ": expert groups must be consecutive ranks of one size");
  });
  ranks.agree();
}

}  // namespace kokomoe::detail
