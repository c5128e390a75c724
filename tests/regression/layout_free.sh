#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 900

# parallel/deterministic = "layout": checkpoints and metrics have the same bits for any number of
# threads, ranks and expert ranks; and routers that cannot keep that promise are refused by name.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
export OMP_PROC_BIND=false
seconds='s/"(tokens_per_second|seconds|[a-z_]*_seconds)": ?[^,}]*,?//g'

# run NAME THREADS RANKS SETTING...
run() {
  local name="$1" threads="$2" ranks="$3"
  shift 3
  local start=()
  ((ranks > 1)) && read -r -a start <<<"$KOKOMOE_MPIEXEC -n $ranks"
  OMP_NUM_THREADS="$threads" KOKKOS_NUM_THREADS="$threads" "${start[@]}" "$KOKOMOE_PROGRAM" train \
    -i deck.toml -d "$name" "$@" >"$name.txt" 2>&1 || { cat "$name.txt" >&2; fail "$name"; }
}

same() {
  kokomoe inspect "$1" "$2" >inspect.txt || { tail -3 inspect.txt >&2; fail "$2 is not $1"; }
  sed -E "$seconds" "$1/metrics.jsonl" >one.jsonl
  sed -E "$seconds" "$2/metrics.jsonl" >two.jsonl
  cmp one.jsonl two.jsonl || fail "the metrics of $2 are not those of $1"
}

layout=parallel/deterministic=layout
layouts=("2 1" "1 2" "1 3" "1 2 parallel/expert_ranks=2" "1 3 parallel/expert_ranks=3"
  "1 4 parallel/expert_ranks=2 parallel/exchange_chunks=2")
models=("moe/every=0" "moe/router=sparsemixer" "moe/router=top_k moe/k=2 model/bias=true \
model/dropout=0.1 moe/shared_experts=1 moe/output_gain=true train/accumulate=2 train/steps=4")
for m in "${!models[@]}"; do
  read -r -a settings <<<"${models[m]}"
  run "model$m" 1 1 "$layout" "${settings[@]}"
  for l in "${!layouts[@]}"; do
    read -r threads ranks more <<<"${layouts[l]}"
    read -r -a more <<<"$more"
    [[ "$ranks" != 1 && -z "$KOKOMOE_MPIEXEC" ]] && continue
    [[ "${more[*]}" == *expert_ranks* && "$m" == 0 ]] && continue
    run "model$m-$l" "$threads" "$ranks" "$layout" "${settings[@]}" "${more[@]}"
    same "model$m" "model$m-$l"
  done
  echo "${models[m]}: the same bits on every layout"
done

# Every router either keeps the promise, here with sharded experts, or is refused.
kokomoe routers --json routers.json >/dev/null
refused=0
while read -r name; do
  settings=(moe/router="$name" moe/allow_future=true train/steps=3 moe/z_loss=0)
  kokomoe validate -i deck.toml "${settings[@]}" >/dev/null 2>&1 || settings+=(moe/balance=0)
  kokomoe validate -i deck.toml "${settings[@]}" >/dev/null || fail "$name: the deck is wrong"
  if ! kokomoe validate -i deck.toml "${settings[@]}" "$layout" >refusal.txt 2>&1; then
    grep -q "parallel/deterministic.*moe/router = \"$name\".*it works with .*sparsemixer" \
      refusal.txt || { cat refusal.txt >&2; fail "$name is refused in other words"; }
    refused=$((refused + 1))
    continue
  fi
  run "$name-threads" 2 1 "$layout" "${settings[@]}" </dev/null
  [[ -z "$KOKOMOE_MPIEXEC" ]] && continue
  run "$name-ranks" 1 3 "$layout" "${settings[@]}" parallel/expert_ranks=3 </dev/null
  same "$name-threads" "$name-ranks"
  echo "$name: the same bits with 2 threads and on 3 ranks"
done < <("$KOKOMOE_PYTHON" -c '
import json
for router in json.load(open("routers.json")): print(router["name"])')
((refused == 5)) || fail "$refused routers are refused"

expect 2 'parallel/deterministic.*micro_batch' \
  kokomoe validate -i deck.toml "$layout" moe/balance_scope=micro_batch
expect 2 'parallel/deterministic.*sequences an update' \
  kokomoe validate -i deck.toml "$layout" data/sequence_length=1 train/batch_tokens=600000
