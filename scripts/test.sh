#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Builds and runs every test; --all adds those labelled slow. More arguments go to ctest.
# The routing of given logits must be equal bit by bit in all builds, so the tests of component moe
# run in the serial and threads builds too, and, but for whole layers (scripts/full_check.sh tsan has
# them, in seven minutes), with devices' kernels under the thread sanitizer. Where nvcc is on PATH,
# library, program and one test program are built for CUDA as well; that needs no GPU, and runs none.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$kokomoe_root"

select=(--label-exclude slow)
if [[ "${1:-}" == --all ]]; then
  select=()
  shift
fi
left_out=()

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
# Each thread on a core of its own: OpenMP's binding would put Kokkos' on one.
log=build/tsan/test_moe.txt
status=0
timeout 1800 env -u OMP_PROC_BIND -u OMP_PLACES OMP_NUM_THREADS=1 KOKKOS_NUM_THREADS=2 \
  build/tsan/tests/test_moe '~[.]~[layer]' >"$log" 2>&1 || status=$?
if ((status == 0)) && grep -q '^All tests passed' "$log"; then
  tail -n 2 "$log"
elif grep -q 'FATAL: ThreadSanitizer: unexpected memory mapping' "$log"; then
  # Before main: this kernel spreads addresses further than the sanitizer knows.
  left_out+=("the thread sanitizer, which cannot start here: see sysctl vm.mmap_rnd_bits")
else
  cat "$log" >&2
  die "test_moe under the thread sanitizer ended with $status: $log"
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
  left_out+=("CUDA: no nvcc on PATH")
fi

stage "test openmp"
ctest --test-dir build/openmp --output-on-failure --no-tests=error --parallel "$kokomoe_jobs" \
  "${select[@]}" "$@"
for part in "${left_out[@]}"; do
  note "LEFT OUT: $part"
done
