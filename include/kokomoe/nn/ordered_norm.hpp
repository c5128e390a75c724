// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/arena.hpp"
#include "kokomoe/parallel/communicator.hpp"
#include "kokomoe/parameters/parameter_store.hpp"

namespace kokomoe {

/// Euclidean norm of the trained gradients, in double, with the same bits for any layout of the
/// parameters: squares are added tile by tile inside each tensor, and inside each expert of an
/// expert tensor; those sums in the order of (tensor, global expert). `experts`: the ranks that
/// hold all experts once. Collective over them; copies the sums to the host.
template <class T>
double ordered_gradient_norm(const ExecutionSpace& space, Arena& scratch,
                             const ParameterStore<T>& store, const Communicator& experts);

}  // namespace kokomoe
