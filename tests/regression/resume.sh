#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# A run that was stopped and resumed equals the unbroken one: parameters, moments and metric rows,
# bit for bit, with 1 and 2 threads. Signals and the wall limit end it with code 75; what an earlier run
# was asked for is not asked of the next. Going back to an older step gives up what came after it.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

settings=(train/steps=20 train/eval_every=5 model/dropout=0.1 model/attention_dropout=0.1
          train/accumulate=2)
for threads in 1 2; do
  export OMP_NUM_THREADS=$threads KOKKOS_NUM_THREADS=$threads
  kokomoe train -i deck.toml -d "whole$threads" "${settings[@]}" >/dev/null
  # Schedules look at train/steps: the first half is ended by a limit that is over, not by fewer steps.
  expect 75 'stopped at step 1 by the wall limit' \
    kokomoe train -i deck.toml -d "half$threads" -t 00:00:01 "${settings[@]}"
  # Files that came too late for a run are nothing to the next.
  touch "half$threads/stop" "half$threads/checkpoint_now"
  # A line torn by a crash, and rows past the checkpoint, are cut.
  echo '{"step": 2, "loss": 1' >>"half$threads/metrics.jsonl"
  expect 0 'resumed from .*step_1' kokomoe train -i deck.toml -d "half$threads" -r last "${settings[@]}"
  for file in stop checkpoint_now; do
    grep -q "note: half$threads/$file was there before this run" output.txt || fail "$file: no note"
    [[ ! -e half$threads/$file ]] || fail "the old $file is still there"
  done
  expect 0 'all equal' kokomoe inspect "whole$threads" "half$threads"
  diff <(rows "whole$threads") <(rows "half$threads") || fail "metric rows differ"
done

# From a checkpoint in the middle, into another folder, with the checkpoint's own deck.
kokomoe train -i deck.toml -d part "${settings[@]}" checkpoint/every=10 checkpoint/keep=5 >/dev/null
expect 0 'done: 20 steps' kokomoe train -d other -r part/checkpoints/step_10
expect 0 'all equal' kokomoe inspect part other

# Going back with what ruins the model: `best` is a step of the past that the run still has.
kokomoe train -i deck.toml -d back "${settings[@]}" checkpoint/every=5 checkpoint/keep=9 >/dev/null
[[ "$(cat back/checkpoints/best)" == step_20 ]] || fail "the run does not learn"
ruin=(optimizer/learning_rate=3 optimizer/schedule=constant)
expect 0 'done: 25 steps' \
  kokomoe train -d back -r back/checkpoints/step_10 "${ruin[@]}" train/steps=25
[[ "$(cat back/checkpoints/best)" == step_10 ]] ||
  fail "after going back to step_10, $(cat back/checkpoints/best) is the best"
expect 0 '^step 10: loss' kokomoe eval -r back/checkpoints/best
expect 0 '^step 25: loss' kokomoe eval -r back
# The best of that past is gone: the best that there is takes its place.
kokomoe train -i deck.toml -d gone "${settings[@]}" train/eval_every=10 checkpoint/every=1 >/dev/null
expect 0 'note: no checkpoint here is the best up to step 19' \
  kokomoe train -d gone -r gone/checkpoints/step_19 "${ruin[@]}" train/steps=40
[[ "$(grep -c ' (best)' output.txt)" -ge 1 && "$(cat gone/checkpoints/best)" != step_19 ]] ||
  fail "no best after going back"

# A wall limit keeps a second for the first save; and a signal in a long run.
expect 75 'by the wall limit' kokomoe train -i deck.toml -d wall -t 00:00:03 train/steps=100000
"$KOKOMOE_PYTHON" - <<'PY'
import json
seconds = sum(json.loads(line).get("seconds", 0) for line in open("wall/metrics.jsonl"))
assert seconds < 2.5, f"{seconds} of 3 s went before the first save"
PY
for signal in TERM USR1 INT HUP; do
  "$KOKOMOE_PROGRAM" train -i deck.toml -d "signal$signal" train/steps=1000000 >"$signal.txt" 2>&1 &
  pid=$!
  until grep -qs '^step 3/' "$signal.txt"; do sleep 0.05; done
  kill -"$signal" "$pid"
  status=0
  wait "$pid" || status=$?
  ((status == 75)) || fail "SIG$signal gave exit $status"
  kokomoe inspect "signal$signal" >/dev/null
done
