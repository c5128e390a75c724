#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 900

# The same run on 1, 2 and 4 ranks, each with its own part of every batch: the same losses and
# parameters up to rounding, in double. Three ranks cut 8 sequences unevenly.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
if [[ -z "$KOKOMOE_MPIEXEC" ]]; then
  echo "built without MPI: nothing to compare" >&2
  exit 0
fi
export OMP_NUM_THREADS=1 KOKKOS_NUM_THREADS=1 OMP_PROC_BIND=false
for router in sparsemixer switch; do
  settings=(run/precision=double "moe/router=$router" model/dropout=0.1 train/accumulate=2)
  for ranks in 1 2 3 4; do
    $KOKOMOE_MPIEXEC -n "$ranks" "$KOKOMOE_PROGRAM" train -i deck.toml -d "$router$ranks" \
      "${settings[@]}" >"$router$ranks.txt" 2>&1 || { cat "$router$ranks.txt" >&2; fail "$ranks ranks"; }
    grep -q "$ranks rank(s)" "$router$ranks.txt" || fail "the banner does not say $ranks ranks"
    status=0
    kokomoe inspect "$router"1 "$router$ranks" --json "$router$ranks.json" >/dev/null || status=$?
    "$KOKOMOE_PYTHON" - "$router$ranks.json" "$router"1 "$router$ranks" <<'PY'
import json, sys
differences = json.load(open(sys.argv[1]))["tensors"]
worst = max(row["largest_difference"] for row in differences)
assert differences and worst < 1e-9, worst
one, several = ([json.loads(line) for line in open(f"{run}/metrics.jsonl")] for run in sys.argv[2:])
assert len(one) == len(several) > 6
for a, b in zip(one, several):
    for key in ("loss", "task_loss", "aux_loss", "grad_norm", "eval_loss"):
        if key in a:
            assert abs(a[key] - b[key]) <= 1e-10 * abs(a[key]), (key, a, b)
print(sys.argv[3], "largest difference of a tensor", worst)
PY
  done
done
# SIGUSR1 to Open MPI's mpirun reaches the ranks, and their code comes back.
if $KOKOMOE_MPIEXEC --version | grep -q 'Open MPI\|OpenRTE'; then
  $KOKOMOE_MPIEXEC -n 2 "$KOKOMOE_PROGRAM" train -i deck.toml -d signal train/steps=1000000 \
    >signal.txt 2>&1 &
  pid=$!
  until grep -qs '^step 3/' signal.txt; do sleep 0.05; done
  expect 2 'run folder "signal" is in use by' $KOKOMOE_MPIEXEC -n 2 "$KOKOMOE_PROGRAM" \
    train -i deck.toml -d signal -r last
  kill -USR1 "$pid"
  status=0
  wait "$pid" || status=$?
  ((status == 75)) || fail "SIGUSR1 to mpirun gave exit $status"
  step="$(cat signal/checkpoints/latest)"
  tail -n 1 signal/metrics.jsonl | grep -q "\"step\": ${step#step_}," || fail "$step is not the last"
fi
# An error on all ranks ends the job with its code.
expect 2 'unknown key' $KOKOMOE_MPIEXEC -n 2 "$KOKOMOE_PROGRAM" validate -i deck.toml moe/experst=3
