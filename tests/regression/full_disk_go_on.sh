#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 900

# A disk that fills up again and again under a run that goes on, on 1 to 4 ranks that write at once:
# each failed save says why and leaves the older checkpoint, each save with room again succeeds, the
# run ends as it should with nothing of what failed left behind, and every row of metrics is whole.
# So too where the file system promises the room and does not keep it, and ranks meet that alone.
if [[ -z "${KOKOMOE_SMALL_DISK:-}" ]]; then
  if ! unshare -rm true 2>/dev/null; then
    echo "no mount namespaces here: nothing to fill" >&2
    exit 0
  fi
  KOKOMOE_SMALL_DISK=1 exec unshare -rm bash "${BASH_SOURCE[0]}"
fi
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
export OMP_NUM_THREADS=1 KOKKOS_NUM_THREADS=1 OMP_PROC_BIND=false

# program RANKS RESERVE SECONDS: sets `program` to its start, with what kills it when it takes longer.
program() {
  local ranks="$1" reserve="$2" seconds="$3" environment=()
  [[ $reserve == real ]] ||
    environment=(env LD_PRELOAD="$KOKOMOE_KILL_LIBRARY" KOKOMOE_TEST_RESERVE="$reserve")
  local ranked=()
  ((ranks == 1)) || ranked=($KOKOMOE_MPIEXEC -n "$ranks")
  program=(timeout -k 5 "$seconds" "${ranked[@]}" "${environment[@]}" "$KOKOMOE_PROGRAM")
}

# count PATTERN FILE: lines that match.
count() { grep -Ec -- "$1" "$2" || true; }
more_than() { (($(count "$2" "$3") > $1)); }

whole_rows() {
  "$KOKOMOE_PYTHON" -c 'import json, sys
for number, line in enumerate(open(sys.argv[1]), 1):
    try:
        json.loads(line)
    except ValueError:
        sys.exit(f"{sys.argv[1]}:{number}: no row: {line!r}")' "$1" || fail "$2: a row is torn"
}

mkdir disk
for reserve in real lies; do
  [[ $reserve == real || -n "$KOKOMOE_KILL_LIBRARY" ]] || continue
  for ranks in 1 2 3 4; do
    ((ranks == 1)) || [[ -n "$KOKOMOE_MPIEXEC" ]] || continue
    what="$ranks rank(s), reserve: $reserve"
    mount -t tmpfs -o size=8m none disk
    : >run.txt
    program "$ranks" "$reserve" 120
    "${program[@]}" train -i deck.toml -d disk/run train/steps=1000000 \
      parallel/expert_ranks="$ranks" moe/experts=5 checkpoint/on_failure=go_on \
      > >(cat >run.txt) 2>&1 &
    pid=$!
    trap 'kill "$pid" 2>/dev/null || true' EXIT
    await '^step 3/' run.txt
    for room in 5K 60K 150K 400K; do
      saved="$(count ' saved ' run.txt)"
      touch disk/run/checkpoint_now
      await_that more_than "$saved" ' saved ' run.txt
      latest="$(cat disk/run/checkpoints/latest)"
      fill_disk "$room"
      failed="$(count 'is not saved' run.txt)"
      touch disk/run/checkpoint_now
      await_that more_than "$failed" 'is not saved' run.txt
      await_that more_than "$failed" 'free that much, or lower checkpoint/keep' run.txt
      kokomoe inspect "disk/run/checkpoints/$latest" >/dev/null ||
        fail "$what, room $room: the older checkpoint is damaged"
      # Rows, too, until there is no room for half a one.
      [[ $room != 5K ]] || await 'a row of metrics is lost' run.txt
      rm disk/filler
    done
    touch disk/run/stop
    ends_with 75 run.txt
    ! grep -q 'Segmentation\|signal 11' run.txt || fail "$what: crashed when it ended"
    [[ $reserve != real ]] || ! grep -q 'does not read back' run.txt ||
      fail "$what: a full disk passes for damage"
    whole_rows disk/run/metrics.jsonl "$what"
    kokomoe inspect disk/run >/dev/null || fail "$what: the latest checkpoint is damaged"
    # A save that must succeed and cannot: 1, and still no crash. The run goes on when there is room.
    latest="$(cat disk/run/checkpoints/latest)"
    more=(train -d disk/run -r last "train/steps=$((${latest#step_} + 2))")
    program "$ranks" "$reserve" 60
    cp disk/run/effective.toml deck_before.toml
    for room in 0K 5K 150K; do
      fill_disk "$room"
      expect 1 'cannot save checkpoint|cannot be written: No space' \
        "${program[@]}" "${more[@]}"
      rm disk/filler
      ! grep -q 'Segmentation\|signal 11' output.txt || fail "$what: crashed when it failed"
      [[ $room != 0K ]] || cmp -s disk/run/effective.toml deck_before.toml ||
        fail "$what, room $room: effective.toml is lost"
    done
    expect 0 'done' "${program[@]}" "${more[@]}"
    umount disk
    echo "$what: every failed save left what was there, and the next one succeeded"
  done
done
