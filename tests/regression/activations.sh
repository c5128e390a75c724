#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# run/activations and moe/weights = "bfloat16": they are said, a run is resumed to the same bits, a
# checkpoint is evaluated as the run was, and the model learns as it does with all of its numbers.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
rounded=(run/activations=bfloat16 train/steps=12 train/eval_every=4 model/dropout=0.1)

expect 2 'run/activations.*full.*bfloat16' kokomoe validate -i deck.toml run/activations=half
expect 0 '^Activations: kept as bfloat16' kokomoe train -i deck.toml -d whole "${rounded[@]}"
expect 0 '' kokomoe train -i deck.toml -d full "${rounded[@]}" run/activations=full
! grep -q '^Activations:' output.txt || fail "the usual way is announced"

# Stopped and resumed, with either number of threads.
for threads in 1 2; do
  export OMP_NUM_THREADS=$threads KOKKOS_NUM_THREADS=$threads
  kokomoe train -i deck.toml -d "whole$threads" "${rounded[@]}" >/dev/null
  kokomoe train -i deck.toml -d "part$threads" "${rounded[@]}" checkpoint/every=5 checkpoint/keep=5 \
    >/dev/null
  expect 0 'done: 12 steps' \
    kokomoe train -d "other$threads" -r "part$threads/checkpoints/step_5" checkpoint/every=0
  expect 0 'all equal' kokomoe inspect "whole$threads" "other$threads"
done
unset OMP_NUM_THREADS KOKKOS_NUM_THREADS

# It learns as it does with all numbers.
"$KOKOMOE_PYTHON" - <<'PY'
import json

def losses(run):
    rows = [json.loads(line) for line in open(f"{run}/metrics.jsonl")]
    return [row["loss"] for row in rows if "loss" in row]
rounded, full = losses("whole"), losses("full")
assert len(rounded) == len(full) == 12
assert rounded != full
worst = max(abs(a - b) / b for a, b in zip(rounded, full))
print(f"losses differ by {worst:.1e}")
assert worst < 0.005 and full[0] - full[-1] > 0.1
PY

# Ranks that share the experts see the same rounded numbers; the layout's promise holds as well.
if [[ -n "$KOKOMOE_MPIEXEC" ]]; then
  export OMP_PROC_BIND=false OMP_NUM_THREADS=1 KOKKOS_NUM_THREADS=1
  kokomoe train -i deck.toml -d one "${rounded[@]}" parallel/deterministic=layout >/dev/null
  $KOKOMOE_MPIEXEC -n 2 "$KOKOMOE_PROGRAM" train -i deck.toml -d two "${rounded[@]}" \
    parallel/deterministic=layout parallel/expert_ranks=2 >/dev/null
  expect 0 'all equal' kokomoe inspect one two
fi

# Weights: where there are blocks of rows, which a deck may ask for on any host with GCC or Clang.
narrow=(moe/weights=bfloat16 train/steps=12 train/eval_every=4 parallel/expert_kernels=blocks)
if kokomoe validate -i deck.toml parallel/expert_kernels=blocks >/dev/null 2>&1; then
  expect 2 'moe/weights.*bfloat16 is read by blocks of rows alone.*one GEMM for each expert' \
    kokomoe validate -i deck.toml moe/weights=bfloat16 parallel/expert_kernels=gemm
  expect 2 'parallel/deterministic.*moe/weights' \
    kokomoe validate -i deck.toml "${narrow[@]}" parallel/deterministic=layout
  expect 0 '^Weights: experts read copies in bfloat16' \
    kokomoe train -i deck.toml -d narrow "${narrow[@]}" checkpoint/every=5 checkpoint/keep=5
  kokomoe train -i deck.toml -d usual "${narrow[@]}" moe/weights=full >/dev/null
  expect 0 'done: 12 steps' \
    kokomoe train -d narrow_on -r narrow/checkpoints/step_5 checkpoint/every=0
  expect 0 'all equal' kokomoe inspect narrow narrow_on
  # Any model can be evaluated either way, also where there are no blocks.
  expect 0 '^step 12: loss' kokomoe eval -r narrow moe/weights=full run/activations=bfloat16
  expect 0 'weights are read as they are: bfloat16' kokomoe eval -r narrow parallel/expert_kernels=gemm
  expect 0 '^step 12: loss' kokomoe eval -r usual moe/weights=bfloat16
  # What is loaded is rounded again: an evaluation finds what the run's own found.
  kokomoe eval -r narrow --json eval.json >/dev/null
  "$KOKOMOE_PYTHON" - <<'PY'
import json
own = [json.loads(line)["eval_loss"] for line in open("narrow/metrics.jsonl") if "eval_loss" in line]
assert json.load(open("eval.json"))["loss"] == own[-1], (own, open("eval.json").read())
ends = [[json.loads(line)["loss"] for line in open(f"{run}/metrics.jsonl") if '"loss"' in line][-1]
        for run in ("narrow", "usual")]
assert ends[0] != ends[1] and abs(ends[0] - ends[1]) < 0.005 * ends[1], ends
PY
fi
