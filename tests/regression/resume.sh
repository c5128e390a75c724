#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# A run that was stopped and resumed equals the unbroken one: parameters, moments and metric rows,
# bit for bit, with 1 and 2 threads. Signals, the wall limit and a stop file end it with code 75.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

settings=(train/steps=20 train/eval_every=5 model/dropout=0.1 model/attention_dropout=0.1
          train/accumulate=2)
for threads in 1 2; do
  export OMP_NUM_THREADS=$threads KOKKOS_NUM_THREADS=$threads
  kokomoe train -i deck.toml -d "whole$threads" "${settings[@]}" >/dev/null
  # Schedules look at train/steps: the first half is ended by a stop file, not by fewer steps.
  mkdir "half$threads"
  touch "half$threads/stop"
  expect 75 'stopped at step 1 by the file "stop"' \
    kokomoe train -i deck.toml -d "half$threads" "${settings[@]}"
  [[ ! -e half$threads/stop ]] || fail "the stop file is still there"
  # A line torn by a crash, and rows past the checkpoint, are cut.
  echo '{"step": 2, "loss": 1' >>"half$threads/metrics.jsonl"
  expect 0 'resumed from .*step_1' kokomoe train -i deck.toml -d "half$threads" -r last "${settings[@]}"
  expect 0 'all equal' kokomoe inspect "whole$threads" "half$threads"
  diff <(rows "whole$threads") <(rows "half$threads") || fail "metric rows differ"
done

# From a checkpoint in the middle, into another folder, with the checkpoint's own deck.
kokomoe train -i deck.toml -d part "${settings[@]}" checkpoint/every=10 checkpoint/keep=5 >/dev/null
expect 0 'done: 20 steps' kokomoe train -d other -r part/checkpoints/step_10
expect 0 'all equal' kokomoe inspect part other

# A wall limit that is over at once, and a signal in a long run.
expect 75 'by the wall limit' kokomoe train -i deck.toml -d wall -t 00:00:01 train/steps=100000
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
