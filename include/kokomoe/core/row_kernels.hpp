// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/config.hpp"
#include "kokomoe/core/types.hpp"

#include <string>

namespace kokomoe {

/// One row of a matrix inside a kernel. `each` visits the columns, `sum` and `maximum` reduce over
/// them; the result is known to every thread of the row. One source serves two shapes of machine:
/// a host thread takes whole rows and vectorises along them, a device gives a team to each row.
#if defined(KOKKOS_ENABLE_CUDA) || defined(KOKKOS_ENABLE_HIP) || defined(KOKKOS_ENABLE_SYCL) || \
    defined(KOKOMOE_FORCE_TEAM_ROWS)
#define KOKOMOE_TEAM_ROWS 1
#else
#define KOKOMOE_TEAM_ROWS 0
#endif

/// Threads of a team: as many as Kokkos thinks best, unless a build asks for a number, to prove
/// kernels for devices on a host (KOKOMOE_FORCE_TEAM_ROWS = threads).
#if defined(KOKOMOE_FORCE_TEAM_ROWS)
inline int team_size(const ExecutionSpace& space) {
  const int threads = space.concurrency();
  return threads < KOKOMOE_FORCE_TEAM_ROWS ? threads : KOKOMOE_FORCE_TEAM_ROWS;
}
#else
inline Kokkos::AUTO_t team_size(const ExecutionSpace&) {
  return Kokkos::AUTO;
}
#endif

/// Makes what a kernel captures arguments of its launch, up to 4 KiB. Kokkos passes more than 512
/// bytes through a buffer of the device otherwise, and the host waits there until the kernel before
/// that used the buffer is done.
using InArguments = Kokkos::Experimental::WorkItemProperty::HintLightWeight_t;

#if KOKOMOE_TEAM_ROWS
class Row {
 public:
  using Policy = Kokkos::TeamPolicy<ExecutionSpace, InArguments>;
  using Member = Policy::member_type;
  KOKKOS_FUNCTION explicit Row(const Member& member) : member_(member) {}
  KOKKOS_FUNCTION int index() const { return static_cast<int>(member_.league_rank()); }

  template <class F>
  KOKKOS_FUNCTION void each(int columns, const F& f) const {
    Kokkos::parallel_for(Kokkos::TeamThreadRange(member_, columns), f);
    member_.team_barrier();
  }
  template <class T, class F>
  KOKKOS_FUNCTION T sum(int columns, const F& f) const {
    T result = 0;
    Kokkos::parallel_reduce(
        Kokkos::TeamThreadRange(member_, columns),
        [&](const int j, T& partial) { partial += f(j); }, result);
    return result;
  }
  template <class T, class F>
  KOKKOS_FUNCTION T maximum(int columns, const F& f) const {
    T result;
    Kokkos::parallel_reduce(
        Kokkos::TeamThreadRange(member_, columns),
        [&](const int j, T& partial) {
          const T value = f(j);
          if (value > partial) partial = value;
        },
        Kokkos::Max<T>(result));
    return result;
  }
  /// Runs f on one thread of the row.
  template <class F>
  KOKKOS_FUNCTION void once(const F& f) const {
    Kokkos::single(Kokkos::PerTeam(member_), f);
    member_.team_barrier();
  }

 private:
  const Member& member_;
};

template <class F>
void for_each_row(const std::string& label, const ExecutionSpace& space, int rows, const F& f) {
  if (rows == 0) return;
  Kokkos::parallel_for(
      label, Row::Policy(space, rows, team_size(space)),
      KOKKOS_LAMBDA(const Row::Member& member) { f(Row(member)); });
}
#else
class Row {
 public:
  KOKKOS_FUNCTION explicit Row(int index) : index_(index) {}
  KOKKOS_FUNCTION int index() const { return index_; }

  template <class F>
  KOKKOS_FUNCTION void each(int columns, const F& f) const {
#pragma omp simd
    for (int j = 0; j < columns; ++j) f(j);
  }
  template <class T, class F>
  KOKKOS_FUNCTION T sum(int columns, const F& f) const {
    T result = 0;
#pragma omp simd reduction(+ : result)
    for (int j = 0; j < columns; ++j) result += f(j);
    return result;
  }
  template <class T, class F>
  KOKKOS_FUNCTION T maximum(int columns, const F& f) const {
    T result = Kokkos::reduction_identity<T>::max();
#pragma omp simd reduction(max : result)
    for (int j = 0; j < columns; ++j) {
      const T value = f(j);
      result = value > result ? value : result;
    }
    return result;
  }
  template <class F>
  KOKKOS_FUNCTION void once(const F& f) const {
    f();
  }

 private:
  int index_;
};

template <class F>
void for_each_row(const std::string& label, const ExecutionSpace& space, int rows, const F& f) {
  if (rows == 0) return;
  Kokkos::parallel_for(
      label, Kokkos::RangePolicy<ExecutionSpace>(space, 0, rows),
      KOKKOS_LAMBDA(const int i) { f(Row(i)); });
}
#endif

}  // namespace kokomoe
