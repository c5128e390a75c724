#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# kokomoe plan: what it says of a deck is what training finds, for models that fit and for those that
# do not; and steps say which share of the GEMM rate they reach.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

# compare NAME RANKS SETTING...: trains three steps, and holds parameters and memory against the plan.
compare() {
  local name="$1" ranks="$2"
  shift 2
  local start=()
  ((ranks > 1)) && read -r -a start <<<"$KOKOMOE_MPIEXEC -n $ranks env OMP_NUM_THREADS=1 OMP_PROC_BIND=false"
  kokomoe plan -i deck.toml --ranks "$ranks" --gemm-gflops 100 --json "$name.json" "$@" \
    >"$name-plan.txt"
  "${start[@]}" "$KOKOMOE_PROGRAM" train -i deck.toml -d "$name" train/steps=3 "$@" >"$name.txt"
  kokomoe inspect "$name" --json "$name-tensors.json" >/dev/null
  "$KOKOMOE_PYTHON" - "$name" <<'PY'
import json, math, re, sys
name = sys.argv[1]
plan = json.load(open(f"{name}.json"))
tensors = json.load(open(f"{name}-tensors.json"))["tensors"]
trained = sum(math.prod(t["shape"]) for t in tensors if t["name"].startswith("parameters/"))
assert trained > 0 and plan["model"]["parameters"] == trained, (plan["model"]["parameters"], trained)
assert sum(part["parameters"] for part in plan["model"]["parts"]) == trained
number, unit = re.search(r"at its peak ([0-9.]+) (\w+)", open(f"{name}.txt").read()).groups()
peak = float(number) * 1024 ** ("B", "KiB", "MiB", "GiB").index(unit)
assert abs(plan["memory"]["total"] / peak - 1) < 0.1, (plan["memory"]["total"], peak)
PY
  echo "$name: parameters exactly, memory within a tenth"
}

size=(train/batch_tokens=4096)
compare dense 1 "${size[@]}" moe/every=0
compare sparse 1 "${size[@]}"
compare top_two 1 "${size[@]}" moe/router=top_k moe/k=2 moe/experts=16 train/accumulate=4
compare layout 1 "${size[@]}" parallel/deterministic=layout
compare rounded 1 "${size[@]}" run/activations=bfloat16
compare rounded_parts 1 "${size[@]}" run/activations=bfloat16 moe/every=0 train/accumulate=8
# Experts that choose their tokens have equally many on every rank, as plans take for granted.
if [[ -n "$KOKOMOE_MPIEXEC" ]]; then
  compare sharded 2 "${size[@]}" moe/router=expert_choice moe/allow_future=true moe/z_loss=0 \
    parallel/expert_ranks=2
  compare parts 2 "${size[@]}" moe/router=expert_choice moe/allow_future=true moe/z_loss=0 \
    moe/experts=6 moe/shared_experts=1 parallel/expert_ranks=2 parallel/exchange_chunks=3
fi

grep -Eq 'tok/s \([0-9]+ % of GEMM rate\)' sparse.txt || fail "steps do not say their share"
! grep -qi gemm sparse/metrics.jsonl || fail "the metrics depend on a measurement"

# Far larger than this machine, without its text, in seconds.
cat >large.toml <<'TOML'
[model]
d_model = 16384
d_hidden = 65536
layers = 96
heads = 128
[moe]
router = "top_k"
experts = 512
k = 4
[train]
batch_tokens = 16777216
[parallel]
expert_ranks = 512
[data]
train = ["not here.txt"]
sequence_length = 4096
TOML
expect 0 'all-reduce, experts' kokomoe plan -i large.toml --ranks 4096 --gemm-gflops 5e4
kokomoe plan -i large.toml --ranks 4096 --gemm-gflops 5e4 --bandwidth 50 --alpha 1 --json - \
  >large.json 2>large.txt
"$KOKOMOE_PYTHON" - <<'PY'
import json
plan = json.load(open("large.json"))
d, h, layers, experts, k = 16384, 65536, 96, 512, 4
parts = {part["part"]: part for part in plan["model"]["parts"]}
assert parts["experts"]["parameters"] == layers * experts * 3 * d * h
assert parts["experts"]["active_parameters"] == layers * k * 3 * d * h
assert plan["memory"]["experts"]["parameters"] == layers * 3 * d * h * 4
rows = 4096 * k * layers * 511 / 512
assert abs(plan["bytes"]["dispatch"] / (rows * d * 4) - 1) < 1e-12
assert plan["machine"] == {"gemm_gflops": 5e4, "gemm_measured": False, "bandwidth_gbs": 50.0,
                           "alpha_us": 1.0}, plan["machine"]
seconds = plan["seconds"]
assert abs(seconds["arithmetic"] * 5e13 / (plan["model"]["flops"] * 4096) - 1) < 1e-12
parts = seconds["arithmetic"] + seconds["exchange"] + seconds["all_reduce"]
assert abs(seconds["step"] - parts) < 1e-9 * parts
PY

# Measured where it is not given.
expect 0 'measured here' kokomoe plan -i deck.toml --json here.json
grep -q '"gemm_measured": true' here.json || fail "the JSON does not say that it measured"

# What a user gets wrong.
expect 2 'missing.toml.*(not found|no such file)' kokomoe plan -i missing.toml
expect 2 'input' kokomoe plan
for deck in electra/kjv electra/sentences translation/documentation; do
  expect 2 '"run/task": plan does language models only so far' \
    kokomoe plan -i "$KOKOMOE_SOURCE_DIR/inputs/$deck.toml"
  expect 2 '"run/task": bench step does language models only so far' \
    kokomoe bench step -i "$KOKOMOE_SOURCE_DIR/inputs/$deck.toml"
done
expect 2 'did you mean "moe/experts"' kokomoe plan -i deck.toml moe/experst=3
expect 2 'heads do not divide' kokomoe plan -i deck.toml model/heads=5
expect 2 'expert_ranks: 3 does not divide 4 rank' \
  kokomoe plan -i deck.toml --ranks 4 parallel/expert_ranks=3
expect 2 'no tensor matches' kokomoe plan -i deck.toml 'train/freeze=["nothing*"]'
expect 2 'ranks' kokomoe plan -i deck.toml --ranks 0
expect 2 'gemm-gflops' kokomoe plan -i deck.toml --gemm-gflops -3
expect 2 'cannot be written' kokomoe plan -i deck.toml --json nowhere/plan.json
