#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Trains on one node, over as many jobs as it takes: two minutes before the end of its time the run
# saves and ends with code 75, and the job goes back into the queue.
#
#   sbatch scripts/slurm/single_node.sh [section/key=value ...]
#   RUN=runs/mine DECK=my.toml sbatch scripts/slurm/single_node.sh
#
#SBATCH --job-name=kokomoe
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
# To this script (B:), two minutes ahead: more than a step, an evaluation and a save take.
#SBATCH --signal=B:USR1@120
# Also when a node dies: Slurm then queues the job by itself, and -r last goes on.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -uo pipefail

kokomoe="${KOKOMOE:-build/openmp/bin/kokomoe}"
deck="${DECK:-inputs/lm/quickstart.toml}"
run="${RUN:-runs/${SLURM_JOB_NAME:-kokomoe}}"
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}" OMP_PROC_BIND=spread OMP_PLACES=cores

latest() { cat "$run/checkpoints/latest" 2>/dev/null; }
before="$(latest)"
lock_time() { stat -c %y "$run/lock" 2>/dev/null; }
lock_before="$(lock_time)"
child="" asked=0
# A file instead of a signal: it also counts when the training has not begun.
# A stop that the training finds is taken for an older one's: it is asked once it has locked its folder.
ask() {
  asked=1
  [[ -n "$child" ]] || return
  while kill -0 "$child" 2>/dev/null && [[ "$(lock_time)" == "$lock_before" ]]; do sleep 1; done
  sleep 1
  if kill -0 "$child" 2>/dev/null; then touch "$run/stop"; fi
}
trap ask USR1

"$kokomoe" train -i "$deck" -d "$run" -r last "$@" &
child=$!
((asked)) && ask
# The trap ends a wait before the child has ended.
while true; do
  seen=$asked code=0
  wait "$child" || code=$?
  ((asked == seen)) && break
done

if ((code == 75)) && [[ "$(latest)" != "$before" ]]; then
  scontrol requeue "$SLURM_JOB_ID"
elif ((code == 75)); then
  echo "no step was saved in this job: not queued again, give it more time" >&2
fi
exit "$code"
