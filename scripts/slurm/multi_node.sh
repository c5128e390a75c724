#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Trains over several nodes, as an array of runs that differ in their seeds, and queues each again
# until it is done. Without --array it is one run.
#
#   sbatch --array=1-4 scripts/slurm/multi_node.sh [section/key=value ...]
#   LAUNCH=mpirun RUN=runs/mine sbatch scripts/slurm/multi_node.sh parallel/expert_ranks=8
#
#SBATCH --job-name=kokomoe
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.out
set -uo pipefail

kokomoe="${KOKOMOE:-build/openmp/bin/kokomoe}"
deck="${DECK:-inputs/lm/quickstart.toml}"
run="${RUN:-runs/${SLURM_JOB_NAME:-kokomoe}}"
job="$SLURM_JOB_ID"
settings=("$@")
if [[ -n "${SLURM_ARRAY_TASK_ID:-}" ]]; then
  run="${run}_$SLURM_ARRAY_TASK_ID"
  job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
  settings+=("run/seed=$SLURM_ARRAY_TASK_ID")
fi
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}" OMP_PROC_BIND=spread OMP_PLACES=cores

case "${LAUNCH:-srun}" in
  # Without --kill-on-bad-exit srun waits for the ranks that are left.
  srun) launch=(srun --kill-on-bad-exit=1 --cpu-bind=cores) ;;
  mpirun) launch=(mpirun --map-by "slot:PE=${SLURM_CPUS_PER_TASK:-1}") ;;
  *) echo "LAUNCH=$LAUNCH: choose srun or mpirun" >&2; exit 2 ;;
esac

latest() { cat "$run/checkpoints/latest" 2>/dev/null; }
before="$(latest)"
lock_time() { stat -c %y "$run/lock" 2>/dev/null; }
lock_before="$(lock_time)"
child="" asked=0
# The file reaches the ranks whatever the launcher makes of signals.
# A stop that the training finds is taken for an older one's: it is asked once it has locked its folder.
ask() {
  asked=1
  [[ -n "$child" ]] || return
  while kill -0 "$child" 2>/dev/null && [[ "$(lock_time)" == "$lock_before" ]]; do sleep 1; done
  sleep 1
  if kill -0 "$child" 2>/dev/null; then touch "$run/stop"; fi
}
trap ask USR1

# The watchdog ends what stands still, a dead node among it, instead of burning the job's time.
"${launch[@]}" "$kokomoe" train -i "$deck" -d "$run" -r last -w "${WATCHDOG:-00:20:00}" \
  "${settings[@]}" &
child=$!
((asked)) && ask
while true; do
  seen=$asked code=0
  wait "$child" || code=$?
  ((asked == seen)) && break
done

if ((code == 75)) && [[ "$(latest)" != "$before" ]]; then
  scontrol requeue "$job"
elif ((code == 75)); then
  echo "no step was saved in this job: not queued again, give it more time" >&2
fi
exit "$code"
