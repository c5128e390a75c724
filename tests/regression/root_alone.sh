#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 300

# A run folder that the root alone sees: training, saving, going on, going back, evaluation and refusals
# on two ranks, of which the second has an empty disk of its own in its place.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
if [[ -z "$KOKOMOE_MPIEXEC" ]]; then
  echo "skipped: built without MPI" >&2
  exit 0
fi
if ! unshare -rm true 2>/dev/null; then
  echo "skipped: no mount namespaces here, so nothing can be hidden from a rank" >&2
  exit 0
fi
export OMP_NUM_THREADS=1 KOKKOS_NUM_THREADS=1 OMP_PROC_BIND=false
mkdir private
cat >hidden.sh <<'SH'
#!/usr/bin/env bash
rank="${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-}}"
[[ "$rank" != 0 ]] || exec "$@"
exec unshare -rm bash -c 'mount -t tmpfs none private && exec "$@"' hidden "$@"
SH
chmod +x hidden.sh
alone() { $KOKOMOE_MPIEXEC -n 2 ./hidden.sh "$KOKOMOE_PROGRAM" "$@"; }
both() { $KOKOMOE_MPIEXEC -n 2 "$KOKOMOE_PROGRAM" "$@"; }
expect 0 '^private$' $KOKOMOE_MPIEXEC -n 1 ./hidden.sh ls -d private
touch private/seen
[[ $($KOKOMOE_MPIEXEC -n 2 ./hidden.sh ls private | grep -c seen) == 1 ]] ||
  fail "the folder is not hidden from the second rank"

settings=(train/steps=8 train/eval_every=4 checkpoint/every=2 checkpoint/keep=9)
for experts in 1 2; do
  run="private/run$experts" seen="seen$experts"
  expect 0 'done: 8 steps' both train -i deck.toml -d "$seen" "${settings[@]}" \
    "parallel/expert_ranks=$experts"
  expect 75 'stopped at step 1' alone train -i deck.toml -d "$run" -t 00:00:01 "${settings[@]}" \
    "parallel/expert_ranks=$experts"
  expect 0 "resumed from $run/checkpoints/step_1" alone train -d "$run" -r last
  expect 0 'all equal' kokomoe inspect "$seen" "$run"
  diff <(rows "$seen") <(rows "$run") || fail "metric rows differ"
  expect 0 '^step 8: loss' alone eval -r "$run"
  expect 0 'done: 8 steps' alone train -d "$run" -r "$run/checkpoints/step_4"
  expect 0 'all equal' kokomoe inspect "$seen" "$run"
  # Refusals, too, are the root's words.
  expect 2 'holds a run already' alone train -i deck.toml -d "$run"
  expect 2 'run or checkpoint not found' alone eval -r private/nothing
  printf x >>"$run/checkpoints/step_8/manifest.json"
  expect 2 'step_6 is whole' alone eval -r "$run"
done
