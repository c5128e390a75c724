#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# timeout: 900

# Ranks that hold the experts between them and write them at once, on a disk that fills up, and on one
# that becomes read-only: all leave with the reason, and the older checkpoint is whole.
if [[ -z "$KOKOMOE_MPIEXEC" ]]; then
  echo "built without MPI: nothing to fill together" >&2
  exit 0
fi
if [[ -z "${KOKOMOE_SMALL_DISK:-}" ]]; then
  if ! unshare -rm true 2>/dev/null; then
    echo "no mount namespaces here: nothing to fill" >&2
    exit 0
  fi
  KOKOMOE_SMALL_DISK=1 exec unshare -rm bash "${BASH_SOURCE[0]}"
fi
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
export OMP_NUM_THREADS=1 KOKKOS_NUM_THREADS=1 OMP_PROC_BIND=false

mkdir disk
# What the disk has left for the save that fails; or its folder can no longer be written to. "lies":
# the file system promises the room and does not keep it, so that the ranks meet its end.
for case in 2:500K 2:100K 2:20K 2:readonly 3:20K 3:400K 4:20K 4:400K 2:lies 3:lies 4:lies; do
  ranks="${case%:*}" room="${case#*:}" program=("$KOKOMOE_PROGRAM")
  if [[ $room == lies ]]; then
    [[ -n "$KOKOMOE_KILL_LIBRARY" ]] || continue
    program=(env LD_PRELOAD="$KOKOMOE_KILL_LIBRARY" KOKOMOE_TEST_RESERVE=lies "$KOKOMOE_PROGRAM")
  fi
  mount -t tmpfs -o size=8m none disk
  mkdir -p disk/run/checkpoints
  : >run.txt  # what comes next must not find the last one's
  timeout -k 5 60 $KOKOMOE_MPIEXEC -n "$ranks" "${program[@]}" train -i deck.toml -d disk/run \
    -r last train/steps=1000000 "parallel/expert_ranks=$ranks" moe/experts=5 >run.txt 2>&1 &
  pid=$!
  await '^step 3/' run.txt
  touch disk/run/checkpoint_now
  await ' saved ' run.txt
  latest="$(cat disk/run/checkpoints/latest)"
  if [[ $room == readonly ]]; then
    mount --bind disk/run/checkpoints disk/run/checkpoints
    mount -o remount,bind,ro disk/run/checkpoints
    reason='cannot save checkpoint: .*Read-only file system'
  else
    fill_disk "${room/lies/500K}"
    reason='free that much, or lower checkpoint/keep'
  fi
  touch disk/run/checkpoint_now
  ends_with 1 run.txt
  grep -q "$reason" run.txt || { tail -n 5 run.txt >&2; fail "$case: no reason given"; }
  [[ $room == lies ]] || ! grep -q 'does not read back' run.txt ||
    fail "$case: a full disk passes for damage"
  [[ "$(cat disk/run/checkpoints/latest)" == "$latest" ]] || fail "$case: saved all the same"
  kokomoe inspect disk/run >/dev/null || fail "$case: the older checkpoint is damaged"
  if [[ $room == readonly ]]; then
    umount disk/run/checkpoints
  else
    [[ -z "$(find disk/run -name '*.tmp')" ]] || fail "$case: a half-made step is left"
    rm disk/filler
  fi
  # With room again the run goes on from there.
  expect 0 "resumed from disk/run/checkpoints/$latest" timeout -k 5 60 \
    $KOKOMOE_MPIEXEC -n "$ranks" "$KOKOMOE_PROGRAM" train -d disk/run -r last \
    train/steps="$((${latest#step_} + 2))"
  umount disk
done
