// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/types.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

namespace kokomoe::test {

template <class T>
using HostFlat = Kokkos::View<T*, Kokkos::LayoutRight, Kokkos::HostSpace>;

/// `values` into a view that is there already, of any rank.
template <class View, class T>
void fill_device(const View& view, const std::vector<T>& values) {
  using Element = typename View::non_const_value_type;
  const Vector<Element> flat(view.data(), view.size());
  Kokkos::deep_copy(flat, HostFlat<const Element>(values.data(), values.size()));
}

template <class T>
Vector<T> device_vector(const std::vector<T>& values) {
  Vector<T> view("kokomoe::test::vector", values.size());
  fill_device(view, values);
  return view;
}

template <class T>
Matrix<T> device_matrix(std::size_t rows, std::size_t columns, const std::vector<T>& values) {
  Matrix<T> view("kokomoe::test::matrix", rows, columns);
  fill_device(view, values);
  return view;
}

/// The elements of a view of any rank, in row-major order.
template <class View>
auto on_host(const View& view) {
  using Element = typename View::non_const_value_type;
  std::vector<Element> values(view.size());
  const Vector<const Element> flat(view.data(), view.size());
  Kokkos::deep_copy(HostFlat<Element>(values.data(), values.size()), flat);
  return values;
}

/// Reproducible numbers in (-scale, scale).
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : state_(seed * 2 + 1) {}
  double operator()(double scale = 1) {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return scale * (static_cast<double>(state_ >> 11) * 0x1p-52 - 1);
  }
  template <class T>
  std::vector<T> many(std::size_t count, double scale = 1) {
    std::vector<T> values(count);
    for (T& value : values) value = static_cast<T>((*this)(scale));
    return values;
  }

 private:
  std::uint64_t state_;
};

template <class T>
double largest(const std::vector<T>& a) {
  double result = 0;
  for (const T x : a) result = std::max(result, std::abs(static_cast<double>(x)));
  return result;
}

/// Largest |a - b| over the largest |b|, or over `floor` when all of b is smaller; infinite when
/// the sizes differ or something is not finite.
template <class T, class U>
double worst_error(const std::vector<T>& a, const std::vector<U>& b, double floor = 1e-30) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, std::abs(difference));
  }
  return worst / std::max(largest(b), floor);
}

/// |a - b| / |b| of all numbers together; infinite when the sizes differ.
template <class T>
double distance(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    difference += (x - y) * (x - y);
    size += y * y;
  }
  return std::sqrt(difference / size);
}

/// Central differences of `loss` by `entries` elements of `values`, spread over it, against
/// `analytic`; the largest difference over the largest |analytic| (at least `floor`).
template <class View, class Loss>
double worst_difference(const View& values, const std::vector<double>& analytic, const Loss& loss,
                        std::size_t entries = 40, double floor = 1e-3, double h = 1e-5) {
  static_assert(std::is_same_v<typename View::non_const_value_type, double>);
  if (values.size() != analytic.size()) return std::numeric_limits<double>::infinity();
  const std::vector<double> start = on_host(values);
  const std::size_t stride = std::max<std::size_t>(1, start.size() / entries);
  double worst = 0;
  const auto check = [&](std::size_t i) {
    std::vector<double> moved = start;
    moved[i] = start[i] + h;
    fill_device(values, moved);
    const double up = loss();
    moved[i] = start[i] - h;
    fill_device(values, moved);
    const double difference = std::abs((up - loss()) / (2 * h) - analytic[i]);
    worst = std::isfinite(difference) ? std::max(worst, difference)
                                      : std::numeric_limits<double>::infinity();
  };
  for (std::size_t i = 0; i < start.size(); i += stride) check(i);
  if (!start.empty()) check(start.size() - 1);
  fill_device(values, start);
  return worst / std::max(largest(analytic), floor);
}

}  // namespace kokomoe::test
