// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace kokomoe::app {

/// An OpenBLAS that does not know this CPU falls back to its slowest kernels, and can only be told
/// better before it is loaded: this starts the program over, once, with OPENBLAS_CORETYPE set. A
/// value that the user gave is left alone. Call first in main; returns when there is nothing to do.
void start_with_fast_blas(char** argv);

/// With OMP_PROC_BIND set, the OpenMP library (a BLAS brings it) binds this thread to one core when it
/// is loaded, and threads of another kind that start from here inherit that one core. This gives the
/// thread back what the process was given; for backends that are not OpenMP, before they start.
void undo_openmp_binding();

}  // namespace kokomoe::app
