#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# A disk that fills up while a run saves: it stops or goes on, as the deck says, the older
# checkpoint is whole, and saves work again when there is room. On a small file system of memory, in
# a mount namespace of the script's own.
if [[ -z "${KOKOMOE_SMALL_DISK:-}" ]]; then
  if ! unshare -rm true 2>/dev/null; then
    echo "no mount namespaces here: nothing to fill" >&2
    exit 0
  fi
  KOKOMOE_SMALL_DISK=1 exec unshare -rm bash "${BASH_SOURCE[0]}"
fi
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

mkdir disk
mount -t tmpfs -o size=4m none disk
for policy in stop go_on; do
  run="disk/$policy"
  mkdir "$run"
  start "$run" -r last train/steps=1000000 "checkpoint/on_failure=$policy"
  await '^step 3/' "$policy.txt"
  touch "$run/checkpoint_now"
  await ' saved ' "$policy.txt"
  first="$(cat "$run/checkpoints/latest")"
  fill_disk 120K  # some room, not enough for a checkpoint
  touch "$run/checkpoint_now"
  if [[ $policy == stop ]]; then
    ends_with 1 "$policy.txt"
    await '^kokomoe: cannot save checkpoint: .*state.h5' "$policy.txt"
    await 'free that much, or lower checkpoint/keep' "$policy.txt"
  else
    await 'warning: step [0-9]+ is not saved: cannot save checkpoint: .*state.h5' "$policy.txt"
    await 'going on, as checkpoint/on_failure says' "$policy.txt"
    kokomoe inspect "$run/checkpoints/$first" >/dev/null || fail "the older checkpoint is damaged"
    rm disk/filler
    touch "$run/checkpoint_now"
    await_that bash -c "[[ \"\$(cat $run/checkpoints/latest)\" != $first ]]"
    fill_disk 120K
    # The save that ends a run has to succeed: 1, and no crash of what failed saves left behind.
    touch "$run/stop"
    ends_with 1 "$policy.txt"
    await '^kokomoe: cannot save checkpoint: ' "$policy.txt"
  fi
  latest="$(cat "$run/checkpoints/latest")"
  kokomoe inspect "$run" >/dev/null || fail "the latest checkpoint is damaged"
  [[ ! -e "$run/checkpoints/step_*.tmp" ]] || fail "a half-made step is left"
  rm disk/filler
  expect 0 "resumed from $run/checkpoints/$latest" \
    kokomoe train -d "$run" -r last train/steps="$((${latest#step_} + 2))"
  rm -r "$run"
done

# A run whose saves failed on the way, and which ends well, ends with 0.
start disk/well train/steps=400 checkpoint/on_failure=go_on
await '^step 3/' well.txt
fill_disk 0K
touch disk/well/checkpoint_now
await 'is not saved' well.txt
rm disk/filler
ends_with 0 well.txt
kokomoe inspect disk/well >/dev/null
