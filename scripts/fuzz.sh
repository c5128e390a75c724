#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Fuzzes the readers of decks, manifests and state files, one after the other: docs/fuzzing.md.
#
#   scripts/fuzz.sh SECONDS [deck|manifest|state]...
#
# Starts from tests/fuzz/corpus and from what earlier runs found (build/fuzz/corpus). Exits with 1
# when a reader breaks its word; the input that does it is then in build/fuzz/findings.
# KOKOMOE_FUZZ_RAW=1 lets target state flip bytes in its files too.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$kokomoe_root"

seconds="${1:-}"
[[ "$seconds" =~ ^[0-9]+$ ]] || die "usage: scripts/fuzz.sh SECONDS [deck|manifest|state]..."
targets=("${@:2}")
((${#targets[@]})) || targets=(deck manifest state)
for target in "${targets[@]}"; do
  [[ -d tests/fuzz/corpus/$target ]] || die "no target '$target': deck, manifest or state"
done

if ! command -v clang++ >/dev/null; then
  stage "packages"
  install=(apt-get install --yes --no-install-recommends clang)
  ((EUID == 0)) || install=(sudo "${install[@]}")
  command -v apt-get >/dev/null || die "no clang++ found: install clang"
  "${install[@]}" >&2 </dev/null || die "cannot install clang: as root, run: apt-get install clang"
fi

# Of Kokkos only headers are needed here, and these are the same for both compilers.
kokkos="$(CXX="${KOKOMOE_GXX:-g++}" scripts/build_deps.sh serial | tail -n 1)"
stage "build"
cmake --preset fuzz "-DKokkos_ROOT=$kokkos" >&2
cmake --build build/fuzz --parallel "$kokomoe_jobs" --target fuzzers >&2

# Files in memory where there is such a place: most of target state's time goes there.
memory=/dev/shm
[[ -d $memory && -w $memory ]] || memory="${TMPDIR:-/tmp}"
TMPDIR="$(mktemp -d "$memory/kokomoe-fuzz-XXXXXX")"
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
export ASAN_OPTIONS=detect_stack_use_after_return=0 UBSAN_OPTIONS=print_stacktrace=1
export LSAN_OPTIONS=suppressions=$kokomoe_root/cmake/lsan.supp:print_suppressions=0

failed=()
for target in "${targets[@]}"; do
  stage "fuzz $target for $seconds s"
  found=build/fuzz/corpus/$target
  mkdir -p "$found" build/fuzz/findings
  options=(-max_total_time="$seconds" -timeout=20 -malloc_limit_mb=256 -rss_limit_mb=2048
    -max_len=4096 -len_control=20 -print_final_stats=1
    -artifact_prefix="build/fuzz/findings/$target-")
  [[ ! -f tests/fuzz/$target.dict ]] || options+=(-dict="tests/fuzz/$target.dict")
  log=build/fuzz/$target.log
  if build/fuzz/tests/fuzz_"$target" "${options[@]}" "$found" "tests/fuzz/corpus/$target" \
    >"$log" 2>&1; then
    note "$(grep -E '^stat::number_of_executed_units' "$log" | tr -s ' ')"
  else
    failed+=("$target")
    grep -E '^broken promise|runtime error|^==[0-9]+==ERROR|^SUMMARY|unit written' "$log" >&2 ||
      tail -n 20 "$log" >&2
  fi
done
((${#failed[@]} == 0)) || die "${failed[*]}: see build/fuzz/findings and build/fuzz/*.log"
note "nothing found"
