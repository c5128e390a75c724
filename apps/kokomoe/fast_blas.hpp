// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace kokomoe::app {

/// An OpenBLAS that does not know this CPU falls back to its slowest kernels, and can only be told
/// better before it is loaded: this starts the program over, once, with OPENBLAS_CORETYPE set. A
/// value that the user gave is left alone. Call first in main; returns when there is nothing to do.
void start_with_fast_blas(char** argv);

}  // namespace kokomoe::app
