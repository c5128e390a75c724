// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "bench_tools.hpp"
#include "kokomoe/core/gemm.hpp"

#include <cstdio>
#include <string>
#include <vector>

namespace kokomoe::app {

/// One product C (m, n) = A (m, k) B, as a layer has it: B = W^T of a W (n, k), or W (k, n) itself.
template <class T>
class GemmBench {
 public:
  GemmBench(int m, int n, int k, Transpose transpose)
      : a_("bench::a", m, k),
        b_("bench::b", transpose == Transpose::yes ? n : k, transpose == Transpose::yes ? k : n),
        c_("bench::c", m, n),
        transpose_(transpose) {
    fill(a_, 3, 1);
    fill(b_, 4, 1);
  }

  void run(const ExecutionSpace& space) {
    // As many calls as take a while: a clock around a few microseconds measures itself.
    const int calls = std::max(1, static_cast<int>(shortest_flops / flops()));
    Timer timer(space);
    for (int i = 0; i < calls; ++i)
      gemm<T>(space, Transpose::no, transpose_, T(1), a_, b_, T(0), c_);
    seconds_.push_back(timer.lap() / calls);
  }
  void forget() { seconds_.clear(); }

  double flops() const {
    return 2.0 * static_cast<double>(c_.size()) * static_cast<double>(a_.extent(1));
  }
  Spread seconds() const { return Spread(seconds_); }
  double gflops() const { return flops() / seconds().median * 1e-9; }
  nlohmann::json to_json() const {
    const Spread s = seconds();
    return {{"m", c_.extent(0)},
            {"n", c_.extent(1)},
            {"k", a_.extent(1)},
            {"transposed", transpose_ == Transpose::yes},
            {"ms", s.median * 1e3},
            {"ms_quartiles", s.quartiles(1e3)},
            {"gflops", flops() / s.median * 1e-9},
            {"gflops_best", flops() / s.least * 1e-9}};
  }
  void print(std::FILE* to, double reference) const {
    const Spread s = seconds();
    std::fprintf(to, "%7zu %7zu %7zu %10.3f %9.3f %9.3f %9.1f %8.3f\n", c_.extent(0), c_.extent(1),
                 a_.extent(1), s.median * 1e3, s.low * 1e3, s.high * 1e3, gflops(),
                 gflops() / reference);
  }

 private:
  static constexpr double shortest_flops = 1e8;

  Matrix<T> a_, b_, c_;
  Transpose transpose_;
  std::vector<double> seconds_;
};

/// The machine's limits: the rate of a large square GEMM, and of reading one long vector while
/// writing another.
template <class T>
class MachineBench {
 public:
  MachineBench()
      : square_(2048, 2048, 2048, Transpose::no),
        from_("bench::from", length),
        to_("bench::to", length) {}

  void run(const ExecutionSpace& space) {
    square_.run(space);
    Timer timer(space);
    const Vector<T> from = from_, to = to_;
    Kokkos::parallel_for(
        KOKOMOE_LABEL("bench::stream"), Kokkos::RangePolicy<ExecutionSpace>(space, 0, length),
        KOKKOS_LAMBDA(const std::size_t j) { to(j) = T(2) * from(j); });
    stream_seconds_.push_back(timer.lap());
  }
  void forget() {
    square_.forget();
    stream_seconds_.clear();
  }

  double gemm_gflops() const { return square_.gflops(); }
  double stream_gbs() const { return 2.0 * length * sizeof(T) / median(stream_seconds_) * 1e-9; }
  nlohmann::json to_json() const {
    return {{"gemm_gflops", gemm_gflops()},
            {"gemm_gflops_best", square_.flops() / square_.seconds().least * 1e-9},
            {"stream_gbs", stream_gbs()},
            {"blas", gemm_library()},
            {"cores", ExecutionSpace().concurrency()}};
  }

 private:
  static constexpr std::size_t length = std::size_t(1) << 25;

  GemmBench<T> square_;
  Vector<T> from_, to_;
  std::vector<double> stream_seconds_;
};

}  // namespace kokomoe::app
