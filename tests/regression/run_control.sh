#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# A file checkpoint_now saves and the run goes on; updates that are not finite are left out or end
# the run, as the deck says.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

# checkpoint_now: the step line tells how long the save took, with an evaluation and without.
start now train/steps=1000000
await '^step 3/' now.txt
touch now/checkpoint_now
await '^step [0-9]+/.* saved [0-9.]+s$' now.txt
await_that test ! -e now/checkpoint_now
saved="$(cat now/checkpoints/latest)"
grep -Eq "^step ${saved#step_}/.* saved " now.txt || fail "the step line of $saved does not say it"
await "^step $((${saved#step_} + 3))/" now.txt
kokomoe inspect "now/checkpoints/$saved" >/dev/null
touch now/checkpoint_now now/stop
ends_with 75 now.txt
[[ ! -e now/checkpoint_now && ! -e now/stop ]] || fail "a request outlived the save"
expect 0 'done: 4 steps' kokomoe train -i deck.toml -d evaluated train/steps=4 train/eval_every=2
[[ $(grep -Ec '^step [24]/.* saved [0-9.]+s' output.txt) == 2 ]] ||
  fail "evaluations that saved do not say so"

# Metrics that cannot be written, here by a limit on file sizes, end the run with the file's name.
start metrics train/steps=1000000
await '^step 3/' metrics.txt
"$KOKOMOE_PYTHON" -c 'import resource, sys
resource.prlimit(int(sys.argv[1]), resource.RLIMIT_FSIZE, (1000, 1000))' "$pid"
ends_with 1 metrics.txt
await '^kokomoe: metrics/metrics.jsonl: cannot be written: File too large' metrics.txt

# A learning rate that blows up. Step, layer and tensor are named; nine may be left out in a row.
blow_up=(optimizer/learning_rate=1e6 optimizer/warmup=0 optimizer/schedule=constant train/clip=0
         train/steps=40)
tensor='("embedding.weight"|".*" of layer [01])'
expect 1 "kokomoe: update [0-9]+: loss .*not finite: $tensor \\([0-9]+ of" \
  kokomoe train -i deck.toml -d nan_stop "${blow_up[@]}"
expect 1 'that makes 10 in a row' \
  kokomoe train -i deck.toml -d nan_skip "${blow_up[@]}" train/on_non_finite=skip checkpoint/every=1
[[ $(grep -c 'warning: update [0-9]* is skipped: ' output.txt) == 9 ]] || fail "nine warnings"
[[ $(grep -c '"skipped": true' nan_skip/metrics.jsonl) == 10 ]] || fail "ten rows say skipped"
# The count in a row goes on after a resume.
expect 1 'that makes 10 in a row' kokomoe train -d nan_skip -r last
