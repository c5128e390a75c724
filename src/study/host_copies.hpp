// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/types.hpp"

#include <vector>

namespace kokomoe::study {

template <class T>
using HostFlat = Kokkos::View<T*, Kokkos::LayoutRight, Kokkos::HostSpace>;

/// Values into a view that is there already, of any rank.
template <class View, class T>
void to_device(const View& view, const std::vector<T>& values) {
  using Element = typename View::non_const_value_type;
  const Vector<Element> flat(view.data(), view.size());
  Kokkos::deep_copy(flat, HostFlat<const Element>(values.data(), values.size()));
}

template <class T>
Vector<T> device_copy(const std::vector<T>& values) {
  const Vector<T> view("kokomoe::study::copy", values.size());
  to_device(view, values);
  return view;
}

/// The elements of a view of any rank, in row-major order.
template <class View>
auto to_host(const View& view) {
  using Element = typename View::non_const_value_type;
  std::vector<Element> values(view.size());
  Kokkos::deep_copy(HostFlat<Element>(values.data(), values.size()),
                    Vector<const Element>(view.data(), view.size()));
  return values;
}

}  // namespace kokomoe::study
