// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/types.hpp"

#include <cstddef>

namespace kokomoe {

/// Asks the system for large pages for memory that nothing has been written to yet: weights that are
/// read once cost a page walk every few rows otherwise. A hint: where it cannot be had, or for
/// memory of a device or less than some MiB, nothing happens.
void prefer_huge_pages(void* begin, std::size_t bytes);

/// A vector of zeros on large pages, each part of it first touched by the thread that owns its
/// indices.
template <class T>
Vector<T> zeros_on_huge_pages(const std::string& label, std::size_t size) {
  const Vector<T> vector(Kokkos::view_alloc(label, Kokkos::WithoutInitializing), size);
  prefer_huge_pages(vector.data(), size * sizeof(T));
  Kokkos::deep_copy(vector, T(0));
  return vector;
}

}  // namespace kokomoe
