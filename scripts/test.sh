#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Builds and runs every test; --all adds those labelled slow. More arguments go to ctest.
# The routing of given logits must be equal bit by bit in all builds, so the tests of component moe
# run in the serial and threads builds too, and those but of whole layers, which take seven minutes
# (scripts/full_check.sh tsan), with devices' kernels under the thread sanitizer. Where nvcc is on PATH, library, program and one test
# program are built for CUDA as well; that needs no GPU, and runs none.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$kokomoe_root"

select=(--label-exclude slow)
if [[ "${1:-}" == --all ]]; then
  select=()
  shift
fi

stage "packages"
scripts/install_packages.sh
for backend in openmp serial threads tsan; do
  stage "Kokkos and Kokkos Kernels for $backend"
  prefix="$(scripts/build_deps.sh "$backend" | tail -n 1)"
  note "$prefix"
done

stage "build openmp"
cmake --preset openmp >&2
cmake --build build/openmp --parallel "$kokomoe_jobs" >&2
stage "text"
scripts/fetch_kjv.sh

for backend in serial threads; do
  stage "build and test routing with $backend"
  cmake --preset "$backend" -DKOKOMOE_DEPS_CACHE=ONLY >&2
  cmake --build "build/$backend" --parallel "$kokomoe_jobs" --target test_moe >&2
  ctest --test-dir "build/$backend" --output-on-failure --no-tests=error -R '^moe$'
done

stage "build and test routing with the thread sanitizer"
cmake --preset tsan -DKOKOMOE_DEPS_CACHE=ONLY >&2
cmake --build build/tsan --parallel "$kokomoe_jobs" --target test_moe >&2
# Where the kernel spreads addresses more than the sanitizer expects, no program starts with it.
said="$(build/tsan/tests/test_moe --list-tags 2>&1)" || true
if [[ $said == *"FATAL: ThreadSanitizer"* ]]; then
  note "LEFT OUT: the thread sanitizer cannot run on this kernel; see sysctl vm.mmap_rnd_bits"
else
  # Each thread on a core of its own: OpenMP's binding would put Kokkos' on one.
  env -u OMP_PROC_BIND -u OMP_PLACES OMP_NUM_THREADS=1 KOKKOS_NUM_THREADS=2 \
    build/tsan/tests/test_moe '~[.]~[layer]~*differences*'
fi

stage "build with CUDA"
if command -v nvcc >/dev/null; then
  prefix="$(scripts/build_deps.sh cuda | tail -n 1)"
  note "$prefix"
  cmake --preset cuda -DKOKOMOE_DEPS_CACHE=ONLY >&2
  cmake --build build/cuda --parallel "$kokomoe_jobs" --target kokomoe test_moe >&2
  ctest --test-dir build/cuda --output-on-failure --no-tests=error -R '^launch_arguments$'
  note "built for sm_90, not run"
else
  note "LEFT OUT: no nvcc on PATH; everything else was built and tested"
fi

stage "test openmp"
ctest --test-dir build/openmp --output-on-failure --no-tests=error --parallel "$kokomoe_jobs" \
  "${select[@]}" "$@"
