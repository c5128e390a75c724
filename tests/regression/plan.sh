#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# kokomoe plan: what it says of a deck is what training finds, for models that fit and for those that
# do not; and steps say which share of the GEMM rate they reach.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

size=(train/batch_tokens=4096)
compare_plan dense 1 deck.toml "${size[@]}" moe/every=0
compare_plan sparse 1 deck.toml "${size[@]}"
compare_plan top_two 1 deck.toml "${size[@]}" moe/router=top_k moe/k=2 moe/experts=16 train/accumulate=4
compare_plan layout 1 deck.toml "${size[@]}" parallel/deterministic=layout
compare_plan rounded 1 deck.toml "${size[@]}" run/activations=bfloat16
compare_plan rounded_parts 1 deck.toml "${size[@]}" run/activations=bfloat16 moe/every=0 train/accumulate=8
# Experts that choose their tokens have equally many on every rank, as plans take for granted.
if [[ -n "$KOKOMOE_MPIEXEC" ]]; then
  compare_plan sharded 2 deck.toml "${size[@]}" moe/router=expert_choice moe/allow_future=true moe/z_loss=0 \
    parallel/expert_ranks=2
  compare_plan parts 2 deck.toml "${size[@]}" moe/router=expert_choice moe/allow_future=true moe/z_loss=0 \
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

# Every deck that comes with the program, none of which finds its data here.
for deck in "$KOKOMOE_SOURCE_DIR"/inputs/{lm,translation,electra}/*.toml; do
  expect 0 'forward and backward' kokomoe plan -i "$deck" --gemm-gflops 100
done
electra="$KOKOMOE_SOURCE_DIR/inputs/electra"
expect 0 'model/from = .* is not there: a vocabulary of' \
  kokomoe plan -i "$electra/sentences.toml" --length 30 --gemm-gflops 100
expect 2 'data/sequence_length = [0-9]+ says it' kokomoe plan -i "$electra/kjv.toml" --length 30
expect 2 'length' kokomoe plan -i "$electra/sentences.toml" --length 0

# Measured where it is not given.
expect 0 'measured here' kokomoe plan -i deck.toml --json here.json
grep -q '"gemm_measured": true' here.json || fail "the JSON does not say that it measured"

# What a user gets wrong.
expect 2 'missing.toml.*(not found|no such file)' kokomoe plan -i missing.toml
expect 2 'input' kokomoe plan
expect 2 'did you mean "moe/experts"' kokomoe plan -i deck.toml moe/experst=3
expect 2 'heads do not divide' kokomoe plan -i deck.toml model/heads=5
expect 2 'expert_ranks: 3 does not divide 4 rank' \
  kokomoe plan -i deck.toml --ranks 4 parallel/expert_ranks=3
expect 2 'no tensor matches' kokomoe plan -i deck.toml 'train/freeze=["nothing*"]'
expect 2 'ranks' kokomoe plan -i deck.toml --ranks 0
expect 2 'gemm-gflops' kokomoe plan -i deck.toml --gemm-gflops -3
expect 2 'cannot be written' kokomoe plan -i deck.toml --json nowhere/plan.json
