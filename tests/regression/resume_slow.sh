#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 1800
# labels: slow

# 100 steps against 37, a stop, and 63: parameters, moments and metric rows, bit for bit, with 1 and 2
# threads and on 1, 2 and 4 ranks, experts on every rank and in blocks.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
settings=(train/steps=100 train/eval_every=20 model/dropout=0.1 train/accumulate=2 moe/experts=5
          checkpoint/every=37 checkpoint/keep=20)

# whole_and_broken NAME LAUNCHER... -- SETTINGS...
whole_and_broken() {
  local name="$1" launcher=()
  shift
  while [[ "$1" != -- ]]; do
    launcher+=("$1")
    shift
  done
  shift
  "${launcher[@]}" "$KOKOMOE_PROGRAM" train -i deck.toml -d "whole_$name" "${settings[@]}" "$@" \
    >"$name.txt" 2>&1 || { cat "$name.txt" >&2; fail "$name"; }
  cp -r "whole_$name" "broken_$name"
  for step in "broken_$name"/checkpoints/step_*; do
    ((${step##*_} <= 37)) || rm -r "$step"
  done
  rm -f "broken_$name"/checkpoints/best
  echo step_37 >"broken_$name/checkpoints/latest"
  "${launcher[@]}" "$KOKOMOE_PROGRAM" train -d "broken_$name" -r last >"$name.txt" 2>&1 ||
    { cat "$name.txt" >&2; fail "$name, resumed"; }
  grep -q 'resumed from .*step_37' "$name.txt" || fail "$name was not resumed from step 37"
  expect 0 'all equal' kokomoe inspect "whole_$name" "broken_$name"
  diff <(rows "whole_$name") <(rows "broken_$name") || fail "metric rows of $name differ"
  (($(wc -l <"whole_$name/metrics.jsonl") == 105)) || fail "$name has not 100 steps and 5 evaluations"
}

for threads in 1 2; do
  export OMP_NUM_THREADS=$threads KOKKOS_NUM_THREADS=$threads
  whole_and_broken "threads$threads" -- train/steps=100
done
if [[ -n "$KOKOMOE_MPIEXEC" ]]; then
  export OMP_NUM_THREADS=1 KOKKOS_NUM_THREADS=1 OMP_PROC_BIND=false
  read -ra mpiexec <<<"$KOKOMOE_MPIEXEC"
  for layout in "2 1" "2 2" "4 1" "4 2" "4 4"; do
    read -r ranks experts <<<"$layout"
    whole_and_broken "ranks${ranks}_$experts" "${mpiexec[@]}" -n "$ranks" -- \
      "parallel/expert_ranks=$experts"
  done
fi
