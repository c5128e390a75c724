#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 900

# Experts in blocks over 1 to 4 ranks, beside data parallelism or not, whole or in parts, staged, by
# pretended nodes: the run of one rank up to rounding, in double. Runs go on where others began with
# another layout, and bit for bit with the same one.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
if [[ -z "$KOKOMOE_MPIEXEC" ]]; then
  echo "built without MPI: experts cannot be sharded" >&2
  exit 0
fi
export OMP_NUM_THREADS=1 KOKKOS_NUM_THREADS=1 OMP_PROC_BIND=false
settings=(run/precision=double moe/experts=5 moe/router=top_k moe/k=2 moe/shared_experts=1
          model/bias=true train/accumulate=2 train/steps=8)

# on RANKS FOLDER SETTINGS...
on() {
  local ranks="$1" folder="$2"
  shift 2
  $KOKOMOE_MPIEXEC -n "$ranks" "$KOKOMOE_PROGRAM" train -d "$folder" "$@" >"$folder.txt" 2>&1 ||
    { cat "$folder.txt" >&2; fail "$ranks ranks, $*"; }
}

# close FOLDER [REFERENCE]: the same tensors and losses as `one`, or another, up to rounding.
close() {
  kokomoe inspect "${2:-one}" "$1" --json "$1.json" >/dev/null || true
  "$KOKOMOE_PYTHON" - "$1.json" "${2:-one}" "$1" <<'PY'
import json, sys
tensors = json.load(open(sys.argv[1]))["tensors"]
worst = max(row["largest_difference"] for row in tensors)
assert tensors and worst < 1e-9, worst
one, other = ([json.loads(line) for line in open(f"{run}/metrics.jsonl")] for run in sys.argv[2:])
assert len(one) == len(other) > 8
for a, b in zip(one, other):
    for key in ("loss", "aux_loss", "grad_norm", "eval_loss"):
        if key in a:
            assert abs(a[key] - b[key]) <= 1e-10 * abs(a[key]), (key, a, b)
print(sys.argv[3], "largest difference of a tensor", worst)
PY
}

kokomoe train -i deck.toml -d one "${settings[@]}" >one.txt
for layout in "2 2" "3 3" "4 2" "4 4"; do
  read -r ranks experts <<<"$layout"
  for how in exchange_chunks=1 exchange_chunks=2 staging=host ranks_per_node=2; do
    folder="ranks${ranks}_${experts}_$how"
    on "$ranks" "$folder" -i deck.toml "${settings[@]}" "parallel/expert_ranks=$experts" \
      "parallel/$how"
    grep -q "experts: in blocks over $experts ranks, $((ranks / experts)) such" "$folder.txt" ||
      fail "the banner does not say how experts lie"
    close "$folder"
  done
  grep -q "staged through host memory" "ranks${ranks}_${experts}_staging=host.txt" ||
    fail "staging is not said"
done
grep -q "by node (2 ranks each)" "ranks4_4_ranks_per_node=2.txt" || fail "the path by node is not said"

# Experts that choose among the tokens of two sequences, which may lie on two ranks. Of two sequences
# that begin with the same byte the first tokens are equal, and which of them an expert with room for
# one takes is then decided by rounding, which a layout may change: hence random bytes.
"$KOKOMOE_PYTHON" -c 'import random; source = random.Random(7)
open("bytes.bin", "wb").write(bytes(int(256 * source.random()) for _ in range(200000)))'
choice=(run/precision=double moe/router=expert_choice moe/allow_future=true moe/routing_group=128
        train/accumulate=2 train/steps=8 'data/train=["bytes.bin"]')
kokomoe train -i deck.toml -d one_choice "${choice[@]}" >one_choice.txt
for layout in "2 1" "3 3" "4 2"; do
  read -r ranks experts <<<"$layout"
  on "$ranks" "choice$ranks" -i deck.toml "${choice[@]}" "parallel/expert_ranks=$experts"
  close "choice$ranks" one_choice
done
expect 2 'groups of several sequences must be whole ones' \
  kokomoe validate -i deck.toml "${choice[@]}" moe/routing_group=96
expect 2 'must divide data/sequence_length = 64 or be a multiple' \
  kokomoe validate -i deck.toml "${choice[@]}" moe/routing_group=48

# A layout that does not fit is refused before any work; evaluation takes what there is, and says so.
expect 2 'parallel/expert_ranks: 3 does not divide the 2 rank' \
  $KOKOMOE_MPIEXEC -n 2 "$KOKOMOE_PROGRAM" train -i deck.toml -d never parallel/expert_ranks=3
expect 2 'parallel/exchange = "node"' $KOKOMOE_MPIEXEC -n 2 "$KOKOMOE_PROGRAM" \
  train -i deck.toml -d never parallel/expert_ranks=2 parallel/exchange=node
expect 0 'note: parallel/expert_ranks = 4 does not divide' kokomoe eval -r ranks4_4_staging=host
expect 0 'bits per byte' $KOKOMOE_MPIEXEC -n 2 "$KOKOMOE_PROGRAM" eval -r ranks4_4_staging=host \
  parallel/expert_ranks=2

# Half a run on one layout, the other half on another.
# stopped RANKS FOLDER SETTINGS...: a run that has done one step.
stopped() {
  local ranks="$1" folder="$2"
  shift 2
  expect 75 'stopped at step 1' $KOKOMOE_MPIEXEC -n "$ranks" "$KOKOMOE_PROGRAM" train -i deck.toml \
    -d "$folder" -t 00:00:01 "${settings[@]}" "$@"
}

halves=("4 4 3 3" "3 3 1 1" "1 1 4 2" "2 2 4 4")
for pair in "${halves[@]}"; do
  read -r ranks experts then_ranks then_experts <<<"$pair"
  folder="half_${ranks}_${then_ranks}"
  stopped "$ranks" "$folder" "parallel/expert_ranks=$experts"
  on "$then_ranks" "$folder" -r last "parallel/expert_ranks=$then_experts"
  close "$folder"
done

# The checkpoint's own number gives way to what the ranks allow, unless somebody asks for it.
adaptations=("3 1 every rank holds all experts" "2 3 experts lie over 3 of them")
for adaptation in "${adaptations[@]}"; do
  read -r ranks then_ranks said <<<"$adaptation"
  folder="adapts_${ranks}_${then_ranks}"
  stopped "$ranks" "$folder" "parallel/expert_ranks=$ranks"
  expect 2 "parallel/expert_ranks: $ranks does not divide" $KOKOMOE_MPIEXEC -n "$then_ranks" \
    "$KOKOMOE_PROGRAM" train -d "$folder" -r last "parallel/expert_ranks=$ranks"
  on "$then_ranks" "$folder" -r last
  grep -q "note: parallel/expert_ranks = $ranks does not divide the $then_ranks .*: $said" \
    "$folder.txt" || { cat "$folder.txt" >&2; fail "$ranks to $then_ranks ranks: no note"; }
  close "$folder"
done

# The same layout goes on bit for bit.
for layout in "2 2" "4 2"; do
  read -r ranks experts <<<"$layout"
  folder="resumed_${ranks}_${experts}"
  stopped "$ranks" "$folder" "parallel/expert_ranks=$experts" parallel/exchange_chunks=2
  on "$ranks" "$folder" -r last
  expect 0 'all equal' kokomoe inspect "$folder" "ranks${ranks}_${experts}_exchange_chunks=2"
  diff <(rows "$folder") <(rows "ranks${ranks}_${experts}_exchange_chunks=2") ||
    fail "metric rows differ"
done
