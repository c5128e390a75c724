// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/gemm_rate.hpp"

#include "kokomoe/core/gemm.hpp"

#include <algorithm>
#include <chrono>

namespace kokomoe {

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// C = A B of one size.
template <class T>
class Square {
 public:
  Square(const ExecutionSpace& space, int size)
      : space_(space), a_(make(size)), b_(make(size)), c_(make(size)) {
    for (const Matrix<T>& matrix : {a_, b_}) Kokkos::deep_copy(space, matrix, T(0.5));
    space_.fence(KOKOMOE_LABEL("core::gemm_rate"));
  }

  double seconds() const {
    const auto start = Clock::now();
    gemm<T>(space_, Transpose::no, Transpose::no, T(1), a_, b_, T(0), c_);
    space_.fence(KOKOMOE_LABEL("core::gemm_rate"));
    return since(start);
  }

 private:
  static Matrix<T> make(int size) {
    return Matrix<T>(Kokkos::view_alloc("kokomoe::core::gemm_rate", Kokkos::WithoutInitializing),
                     size, size);
  }

  ExecutionSpace space_;
  Matrix<T> a_, b_, c_;
};

}  // namespace

template <class T>
double measure_gemm_rate(const ExecutionSpace& space, double seconds) {
  constexpr int smallest = 128, largest = 4096, fewest = 3, most = 15;
  const auto start = Clock::now();
  double best = 0;
  for (int size = smallest;; size *= 2) {
    const Square<T> product(space, size);
    product.seconds();  // wakes the library's threads
    double each = product.seconds();
    // Eight times the work for twice the size.
    const bool larger = size < largest && since(start) + 8 * (fewest + 1) * each < seconds;
    for (int lap = 1; !larger && lap < most; ++lap) {
      if (lap >= fewest && since(start) + each > seconds) break;
      each = std::min(each, product.seconds());
    }
    best = std::max(best, 2.0 * size * size * size / each);
    if (!larger) return best;
  }
}

template double measure_gemm_rate<float>(const ExecutionSpace&, double);
template double measure_gemm_rate<double>(const ExecutionSpace&, double);

}  // namespace kokomoe
