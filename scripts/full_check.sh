#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# All that can be checked on one machine, for a maintainer with some hours: every preset built anew
# in a folder of its own, every test, the slow ones too. Where one part fails, the others go on.
#
#   scripts/full_check.sh [--list] [PART]...
#
# A part is a preset; without any, all of them. Ends with a table, and with 1 when anything failed.
# Logs are in build/full_check. What is built with CUDA is not run here: scripts/gpu_check.sh does,
# on a GPU. Slow tests, which are about files, signals and long runs, run in the openmp part; those
# of the thread sanitizer are the ones that need neither MPI nor HDF5, which are not instrumented.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$kokomoe_root"

all=(openmp serial threads debug asan tsan cuda cuda_sm80)
if [[ "${1:-}" == --list ]]; then
  printf '%s\n' "${all[@]}"
  exit 0
fi
parts=("$@")
((${#parts[@]})) || parts=("${all[@]}")
for part in "${parts[@]}"; do
  [[ " ${all[*]} " == *" $part "* ]] || die "no part '$part': ${all[*]}"
done

logs=build/full_check
mkdir -p "$logs"
table="$(printf '%-10s %-13s %-8s %8s  %s' part stage result seconds tests)"
failures=0
# run PART STAGE COMMAND...: adds a line to the table.
run() {
  local part="$1" name="$2" log="$logs/$1_$2.txt" begin=$SECONDS result=passed tests=
  shift 2
  stage "$part: $name"
  if ! "$@" >"$log" 2>&1; then
    result=FAILED
    failures=$((failures + 1))
    tail -n 30 "$log" >&2
  fi
  tests="$(sed -n 's/^\([0-9]*\)% tests passed, \([0-9]*\) tests failed out of \([0-9]*\)$/\2 of \3 failed/p' \
    "$log" | tail -n 1)"
  local skipped
  skipped="$(grep -c '\*\*\*Skipped' "$log" || true)"
  ((skipped == 0)) || tests+=", $skipped skipped"
  note "$result, $((SECONDS - begin)) s"
  table+="$(printf '\n%-10s %-13s %-8s %8d  %s' "$part" "$name" "$result" $((SECONDS - begin)) \
    "$tests")"
  [[ $result == passed ]]
}
# skip PART WHY: what is not checked is said, and counts as a failure.
skip() {
  failures=$((failures + 1))
  table+="$(printf '\n%-10s %-13s %-8s %8s  %s' "$1" - MISSING - "$2")"
}

run all packages scripts/install_packages.sh || true
run all text scripts/fetch_kjv.sh || true
for part in "${parts[@]}"; do
  if [[ $part == cuda* ]] && ! command -v nvcc >/dev/null; then
    skip "$part" "no nvcc on PATH"
    continue
  fi
  run "$part" dependencies scripts/build_deps.sh "$part" || continue
  build="$logs/$part"
  rm -rf "$build"
  run "$part" configure cmake --preset "$part" -B "$build" -DKOKOMOE_DEPS_CACHE=ONLY || continue
  run "$part" build cmake --build "$build" --parallel "$kokomoe_jobs" || continue
  case "$part" in
  cuda*) select=(-R '^(include_floors|launch_arguments)$') ;;
  openmp) select=() ;;
  tsan) select=(-R '^(core|parameters|moe|nn|model)$') ;;
  *) select=(-LE slow) ;;
  esac
  run "$part" tests ctest --test-dir "$build" --output-on-failure --no-tests=error \
    --parallel "$kokomoe_jobs" "${select[@]}" || true
done

printf '%s\n' "$table"
((failures == 0)) || die "stages that failed: $failures; see $logs"
