#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Builds and runs every test; --all adds those labelled slow. More arguments go to ctest.
# The routing of given logits must be equal bit by bit in all builds, so the tests of component moe
# run in the serial and threads builds too.
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
for backend in openmp serial threads; do
  stage "Kokkos and Kokkos Kernels for $backend"
  note "$(scripts/build_deps.sh "$backend" | tail -n 1)"
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

stage "test openmp"
ctest --test-dir build/openmp --output-on-failure --no-tests=error --parallel "$kokomoe_jobs" \
  "${select[@]}" "$@"
