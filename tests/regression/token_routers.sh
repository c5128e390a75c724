#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 600

# Routers whose state moves between updates, or whose losses look at all ranks: a resumed run equals
# the unbroken one to the bit, and two ranks make the run of one up to rounding.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
export OMP_NUM_THREADS=1 KOKKOS_NUM_THREADS=1 OMP_PROC_BIND=false

for router in deepseek_v3 remoe default_moe noisy_top_k hash; do
  settings=("moe/router=$router" train/accumulate=2 run/precision=double)
  case "$router" in
    deepseek_v3) settings+=(moe/k=2 moe/groups=2 moe/group_limit=1) ;;
    remoe) settings+=(moe/k=2 moe/regularization=0.01) ;;
    default_moe) settings+=(moe/k=2 moe/decay=0.5) ;;
    noisy_top_k) settings+=(moe/k=2) ;;
    hash) settings+=(moe/table=balanced moe/z_loss=0) ;;
  esac

  kokomoe train -i deck.toml -d "$router" "${settings[@]}" >"$router.txt"
  expect 75 'stopped at step 1' \
    kokomoe train -i deck.toml -d "$router.half" -t 00:00:01 "${settings[@]}"
  expect 0 'resumed from .*step_1' \
    kokomoe train -i deck.toml -d "$router.half" -r last "${settings[@]}"
  expect 0 'all equal' kokomoe inspect "$router" "$router.half"
  diff <(rows "$router") <(rows "$router.half") || fail "$router: metric rows differ"

  if [[ -n "$KOKOMOE_MPIEXEC" ]]; then
    $KOKOMOE_MPIEXEC -n 2 "$KOKOMOE_PROGRAM" train -i deck.toml -d "$router.2" "${settings[@]}" \
      >"$router.2.txt" 2>&1 || { cat "$router.2.txt" >&2; fail "$router on 2 ranks"; }
    status=0
    kokomoe inspect "$router" "$router.2" --json difference.json >/dev/null || status=$?
    "$KOKOMOE_PYTHON" - difference.json "$router" "$router.2" <<'PY'
import json, sys
worst = max(row["largest_difference"] for row in json.load(open(sys.argv[1]))["tensors"])
assert worst < 1e-9, worst
one, two = ([json.loads(line) for line in open(f"{run}/metrics.jsonl")] for run in sys.argv[2:])
assert len(one) == len(two) >= 6
for a, b in zip(one, two):
    for key in ("loss", "task_loss", "aux_loss", "grad_norm", "eval_loss"):
        if key in a:
            assert abs(a[key] - b[key]) <= 1e-10 * abs(a[key]) + 1e-14, (key, a, b)
print(sys.argv[2], "largest difference of a tensor", worst)
PY
  fi

  # What the choice needs is in the checkpoint, whatever text it is evaluated with.
  head -c 3000 text.txt >other.txt
  expect 0 'bits per byte' kokomoe eval -r "$router" 'data/train=["other.txt"]'
  "$KOKOMOE_PYTHON" - "$router" output.txt <<'PY'
import json, re, sys
rows = [json.loads(line) for line in open(f"{sys.argv[1]}/metrics.jsonl")]
trained = [row["eval_loss"] for row in rows if "eval_loss" in row][-1]
printed = float(re.search(r"loss ([0-9.]+) nats", open(sys.argv[2]).read()).group(1))
assert abs(trained - printed) < 1e-4, (trained, printed)
PY
done

expect 2 'moe/group_limit' kokomoe validate -i deck.toml moe/router=deepseek_v3 moe/groups=2 \
  moe/group_limit=1 moe/k=3
expect 2 'moe/balance' kokomoe validate -i deck.toml moe/router=remoe moe/balance=0.1
