// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "io/manifest.hpp"
#include "io/store_slots.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace kokomoe::detail {

/// Writes all of a store to a new state.h5 at `path`, whose folder the root has made. Collective.
/// What is in the manifest about it, on the root; the file is synced then.
template <class T>
Manifest save_state(const std::string& path, const ParameterStore<T>& store,
                    const CheckpointMeta& meta, const Communicator& communicator);

}  // namespace kokomoe::detail
