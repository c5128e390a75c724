// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/types.hpp"

namespace kokomoe {

/// x = 0. Unlike Kokkos::deep_copy of a number it asks for no memory on the host: for use in steps.
template <class T>
void clear(const ExecutionSpace& space, const Vector<T>& x) {
  Kokkos::parallel_for(
      KOKOMOE_LABEL("core::clear"),
      Kokkos::RangePolicy<ExecutionSpace, Kokkos::IndexType<std::size_t>>(space, 0, x.extent(0)),
      KOKKOS_LAMBDA(const std::size_t i) { x(i) = T(0); });
}

/// The same of all rows.
template <class T>
void clear(const ExecutionSpace& space, const Matrix<T>& x) {
  clear(space, Vector<T>(x.data(), x.size()));
}

}  // namespace kokomoe
