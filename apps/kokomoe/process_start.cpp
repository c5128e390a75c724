// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "process_start.hpp"

#include "kokomoe/core/gemm.hpp"

#include <sched.h>
#include <unistd.h>
#include <cstdlib>
#include <string>

namespace {

// Read before any library runs code of its own, and with it the OpenMP library.
cpu_set_t initial_affinity;
bool have_initial_affinity = false;

void record_affinity(int, char**, char**) {
  have_initial_affinity = sched_getaffinity(0, sizeof initial_affinity, &initial_affinity) == 0;
}

[[maybe_unused, gnu::section(".preinit_array"),
  gnu::used]] void (*const record)(int, char**, char**) = record_affinity;

}  // namespace

namespace kokomoe::app {

void undo_openmp_binding() {
  if (have_initial_affinity) sched_setaffinity(0, sizeof initial_affinity, &initial_affinity);
}

void start_with_fast_blas(char** argv) {
  const std::string core = better_openblas_core();
  if (core.empty() || !have_initial_affinity || std::getenv("OPENBLAS_CORETYPE") != nullptr) return;
  setenv("OPENBLAS_CORETYPE", core.c_str(), 1);
  undo_openmp_binding();
  execv("/proc/self/exe", argv);
  unsetenv("OPENBLAS_CORETYPE");  // no /proc here: run on; the banner says that GEMM is slow
}

}  // namespace kokomoe::app
