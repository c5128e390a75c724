// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/placement.hpp"

#include "kokomoe/core/types.hpp"

#ifdef __linux__
#include <sched.h>

#include <vector>
#endif

namespace kokomoe {

#ifdef __linux__

int cores_of_threads() {
  if constexpr (host_accessible) {
    using Host = Kokkos::DefaultHostExecutionSpace;
    const Host space;
    const int threads = space.concurrency();
    std::vector<cpu_set_t> masks(threads);
    for (cpu_set_t& mask : masks) CPU_ZERO(&mask);
    cpu_set_t* const of_thread = masks.data();
    Kokkos::parallel_for(
        KOKOMOE_LABEL("cores_of_threads"),
        Kokkos::RangePolicy<Host, Kokkos::Schedule<Kokkos::Static>>(space, 0, threads),
        [of_thread](int thread) {
          sched_getaffinity(0, sizeof of_thread[thread], of_thread + thread);
        });
    space.fence();
    cpu_set_t all;
    CPU_ZERO(&all);
    for (const cpu_set_t& mask : masks) CPU_OR(&all, &all, &mask);
    return CPU_COUNT(&all);
  } else {
    return 0;
  }
}

#else

int cores_of_threads() { return 0; }

#endif

std::string placement_warning() {
  const int cores = cores_of_threads();
  if (cores == 0) return "";
  const int threads = Kokkos::DefaultHostExecutionSpace().concurrency();
  if (threads <= cores) return "";
  return "SLOW: " + std::to_string(threads) + " threads of a rank may use " +
         std::to_string(cores) + " core(s) only: set fewer threads, or let go of the binding " +
         "(OMP_PROC_BIND, mpirun --bind-to none, srun --cpu-bind)";
}

}  // namespace kokomoe
