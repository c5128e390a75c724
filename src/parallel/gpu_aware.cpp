// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/gpu_aware.hpp"

#include "kokomoe/config.hpp"

#include <Kokkos_Core.hpp>

#ifdef KOKOMOE_HAVE_MPI
#include <mpi.h>
#if defined(OPEN_MPI) && __has_include(<mpi-ext.h>)
#include <mpi-ext.h>
#endif
#endif

namespace kokomoe {

bool mpi_reads_device_memory() {
#if defined(KOKKOS_ENABLE_CUDA) && defined(MPIX_CUDA_AWARE_SUPPORT)
  return MPIX_Query_cuda_support() == 1;
#else
  // MPICH and others have no question to ask: they are staged, which is slower and always right.
  return false;
#endif
}

}  // namespace kokomoe
