// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "fast_blas.hpp"

#include "kokomoe/core/gemm.hpp"

#include <cstdlib>
#include <sched.h>
#include <string>
#include <unistd.h>

namespace {

// With OMP_PROC_BIND set, the OpenMP library binds this thread to one core as soon as it is loaded,
// and a program started from here would inherit that one core. The mask is read before any library
// runs code of its own.
cpu_set_t initial_affinity;
bool have_initial_affinity = false;

void record_affinity(int, char**, char**) {
  have_initial_affinity =
      sched_getaffinity(0, sizeof initial_affinity, &initial_affinity) == 0;
}

[[gnu::section(".preinit_array"), gnu::used]] void (*const record)(int, char**, char**) =
    record_affinity;

}  // namespace

namespace kokomoe::app {

void start_with_fast_blas(char** argv) {
  const std::string core = better_openblas_core();
  if (core.empty() || !have_initial_affinity || std::getenv("OPENBLAS_CORETYPE") != nullptr)
    return;
  setenv("OPENBLAS_CORETYPE", core.c_str(), 1);
  sched_setaffinity(0, sizeof initial_affinity, &initial_affinity);
  execv("/proc/self/exe", argv);
  unsetenv("OPENBLAS_CORETYPE");  // no /proc here: run on; the banner says that GEMM is slow
}

}  // namespace kokomoe::app
