#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 900

# When one rank fails or stands still, all leave: with its message, a code that is not 0, and soon.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
if [[ -z "$KOKOMOE_MPIEXEC" ]]; then
  echo "built without MPI: no ranks to lose" >&2
  exit 0
fi
export OMP_NUM_THREADS=1 KOKKOS_NUM_THREADS=1 OMP_PROC_BIND=false

# start_ranks NAME RANKS OPTIONS...: as start.
start_ranks() {
  local name="$1" ranks="$2"
  shift 2
  : >"$name.txt"
  $KOKOMOE_MPIEXEC -n "$ranks" "$KOKOMOE_PROGRAM" train -i deck.toml -d "$name" "$@" \
    > >(cat >"$name.txt") 2>&1 &
  pid=$!
  trap 'kill -KILL "$pid" 2>/dev/null || true' EXIT
}
# The processes of a run by rank: each watchdog's file names its own.
rank_process() { sed -E 's/.* process ([0-9]+) on .*/\1/' "$1/heartbeat/rank_$2"; }
# leaves CODE SECONDS FILE: $pid ends with the code, within the time.
leaves() {
  local began=$SECONDS
  (sleep "$2" && kill -KILL "$pid") 2>/dev/null &
  local timer=$!
  ends_with "$1" "$3"
  kill "$timer" 2>/dev/null || true
  wait "$timer" 2>/dev/null || true
  ((SECONDS - began < $2)) || fail "it took $((SECONDS - began)) s"
  echo "$3: left after $((SECONDS - began)) s"
}

gone() { ! kill -0 "$1" 2>/dev/null; }

# 1. The watchdog: a rank that is stopped, the root too. Three seconds are its limit.
for stopped in 2 0; do
  run="still$stopped"
  start_ranks "$run" 3 -w 3 train/steps=1000000
  await '^step 3/' "$run.txt"
  process="$(rank_process "$run" "$stopped")"
  kill -STOP "$process"
  leaves 1 20 "$run.txt"
  await 'no progress for 3 s in the [a-z]+ of step [0-9]+' "$run.txt"
  await "not arrived: rank $stopped \(process $process on .*\), which does not answer" "$run.txt"
  [[ $(grep -c 'not arrived: ' "$run.txt") == 1 ]] || fail "one report, with one rank"
  others="$(for r in 0 1 2; do ((r == stopped)) || echo -n "$r, "; done)"
  await "arrived, waiting: ranks ${others%, } in [a-z_]+" "$run.txt"
  await_that gone "$process"
done
# One that only computes for long is no such rank, and a watchdog alone works, too.
expect 0 'done: 6 steps' $KOKOMOE_MPIEXEC -n 2 "$KOKOMOE_PROGRAM" train -i deck.toml -d calm -w 30
[[ ! -e calm/heartbeat ]] || fail "heartbeats are left behind"
expect 2 'no time' kokomoe train -i deck.toml -d never -w 0

# 2. Reading: rank 1 works in another folder, where there is no cache.
mkdir elsewhere
cp deck.toml elsewhere
cat >there.sh <<'SH'
cd "$1" && shift && exec "$@"
SH
expect 2 'kokomoe: rank 1: cache/tokens-[0-9a-f]*.bin: error: file not found' \
  $KOKOMOE_MPIEXEC -n 1 "$KOKOMOE_PROGRAM" train -i deck.toml -d "$PWD/reading" : \
  -n 1 bash there.sh elsewhere "$KOKOMOE_PROGRAM" train -i deck.toml -d "$PWD/reading"
expect 0 'done' kokomoe train -i deck.toml -d whole
expect 2 'kokomoe: rank 1: cache/tokens-[0-9a-f]*.bin: error: file not found' \
  $KOKOMOE_MPIEXEC -n 1 "$KOKOMOE_PROGRAM" eval -r "$PWD/whole" : \
  -n 1 bash there.sh elsewhere "$KOKOMOE_PROGRAM" eval -r "$PWD/whole"

# 3. A step: a token of the cache is damaged while ranks read it. Whoever meets it says so.
start_ranks step 2 train/steps=1000000 data/heldout=[]
await '^step 3/' step.txt
for cache in cache/tokens-*.bin; do
  "$KOKOMOE_PYTHON" - "$cache" <<'PY'
import sys
with open(sys.argv[1], "r+b") as file:
    size = file.seek(0, 2)
    for place in range(64 + 2 * 700, size - 2, 2 * 1000):
        file.seek(place)
        file.write(b"\xff\xff")
PY
done
leaves 1 30 step.txt
await '^kokomoe( \(rank 1\))?: cache/tokens-.*: token [0-9]+ is damaged' step.txt
rm -r cache

# 4. A step and an evaluation of the root alone: its metrics cannot be written.
for every in 0 1; do
  run="metrics$every"
  start_ranks "$run" 2 -w 60 train/steps=1000000 "train/eval_every=$every"
  await '^step 2/' "$run.txt"
  "$KOKOMOE_PYTHON" -c 'import resource, sys
resource.prlimit(int(sys.argv[1]), resource.RLIMIT_FSIZE, (500, 500))' "$(rank_process "$run" 0)"
  leaves 1 30 "$run.txt"
  await "^kokomoe: .*cannot " "$run.txt"
done

# 5. Saving, on each rank alone, with experts on both: no file may get that large.
for rank in 0 1; do
  run="saving$rank"
  start_ranks "$run" 2 -w 60 train/steps=1000000 parallel/expert_ranks=2 data/heldout=[]
  await '^step 3/' "$run.txt"
  "$KOKOMOE_PYTHON" -c 'import resource, sys
resource.prlimit(int(sys.argv[1]), resource.RLIMIT_FSIZE, (100000, 100000))' \
    "$(rank_process "$run" "$rank")"
  touch "$run/checkpoint_now"
  leaves 1 30 "$run.txt"
  await '^kokomoe: .*cannot save checkpoint: ' "$run.txt"
done
