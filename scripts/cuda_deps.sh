# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Sourced by build_deps.sh for the cuda backend, with the sources unpacked in $work: makes Kokkos
# 4.7.0 compile with CUDA 13 (4.7.1 does by itself), and its wrapper of nvcc the compiler.

cuda_major="$(nvcc --version | sed -n 's/.*release \([0-9]*\)\..*/\1/p')"
if ((cuda_major >= 13)); then
  # Two calls have new signatures.
  instance="$work/kokkos/core/src/Cuda/Kokkos_Cuda_Instance.hpp"
  sed -i \
    -e 's/cudaGraphAddDependencies(graph, from, to, numDependencies)/cudaGraphAddDependencies(graph, from, to, nullptr, numDependencies)/' \
    -e 's/cudaMemPrefetchAsync(devPtr, count, dstDevice, m_stream)/cudaMemPrefetchAsync(devPtr, count, cudaMemLocation{dstDevice == cudaCpuDeviceId ? cudaMemLocationTypeHost : cudaMemLocationTypeDevice, dstDevice}, 0, m_stream)/' \
    "$instance"
  if ! grep -q 'to, nullptr, numDependencies' "$instance" || ! grep -q 'cudaMemLocation{' "$instance"; then
    die "could not adapt Kokkos to CUDA $cuda_major"
  fi
fi

# The wrapper's own default, sm_70, is one that CUDA 13 refuses.
sed -i "s/^default_arch=.*/default_arch=\"sm_$cuda_arch\"/" "$work/kokkos/bin/nvcc_wrapper"
export NVCC_WRAPPER_DEFAULT_COMPILER="$cxx"
cxx="$work/kokkos/bin/nvcc_wrapper"
