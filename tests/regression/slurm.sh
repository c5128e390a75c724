#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# The Slurm scripts of scripts/slurm/ with a Slurm of our own: told that time runs out they save and
# queue the job again, until it is done; what fails is not queued again.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
export OMP_NUM_THREADS=1 KOKKOS_NUM_THREADS=1
# Whatever fails here leaves no training behind.
trap 'touch single/stop array_3/stop 2>/dev/null || true' EXIT
mkdir bin
cat >bin/scontrol <<'SH'
#!/usr/bin/env bash
echo "$*" >>scontrol.txt
SH
# Takes its own options away, notes them, and runs the program: one rank.
cat >bin/srun <<'SH'
#!/usr/bin/env bash
while [[ "$1" == --* ]]; do
  echo "$1" >>srun.txt
  shift
done
exec "$@"
SH
cp bin/srun bin/mpirun
sed -i 's/srun.txt/mpirun.txt/; s/^  shift$/  shift; [[ "$1" == slot:* ]] \&\& shift/' bin/mpirun
chmod +x bin/*
export PATH="$PWD/bin:$PATH" KOKOMOE="$KOKOMOE_PROGRAM" DECK=deck.toml
export SLURM_CPUS_PER_TASK=1 SLURM_JOB_NAME=lm SLURM_JOB_ID=77
scripts="$KOKOMOE_SOURCE_DIR/scripts/slurm"

# job SCRIPT OPTIONS...: a job in the background; its output in job.txt.
job() {
  : >scontrol.txt
  : >job.txt  # the pipe opens it some time later
  bash "$@" > >(cat >job.txt) 2>&1 &
  pid=$!
}

for script in "$scripts"/*.sh; do
  grep -q '^#SBATCH --signal=B:USR1@120$' "$script" || fail "$script does not ask for USR1"
  grep -q '^#SBATCH --requeue$' "$script" || fail "$script may not be queued again"
done

# One node: twice told to end, then done.
export RUN=single
for part in 1 2; do
  job "$scripts/single_node.sh" train/steps=2000 moe/k=1
  await "^step [0-9]+/2000" job.txt
  kill -USR1 "$pid"
  ends_with 75 job.txt
  [[ "$(cat scontrol.txt)" == "requeue 77" ]] || fail "part $part: not queued again"
  latest="$(cat single/checkpoints/latest)"
  await "stopped at step ${latest#step_} by the file \"stop\"" job.txt
  [[ $part == 1 ]] || grep -q 'resumed from single/checkpoints/step_' job.txt ||
    fail "the second job did not go on"
done
job "$scripts/single_node.sh" train/steps="$((${latest#step_} + 2))" moe/k=1
ends_with 0 job.txt
[[ ! -s scontrol.txt ]] || fail "a finished job is queued again"

# What fails stays out of the queue, and its code comes through.
for broken in 2:moe/experst=3 2:model/layers=3; do
  job "$scripts/single_node.sh" "${broken#*:}"
  ends_with "${broken%%:*}" job.txt
  [[ ! -s scontrol.txt ]] || fail "a job that failed is queued again"
done
# So does a job in which nothing was saved.
cat >bin/nothing <<'SH'
#!/usr/bin/env bash
exit 75
SH
chmod +x bin/nothing
KOKOMOE=nothing job "$scripts/single_node.sh"
ends_with 75 job.txt
await 'not queued again' job.txt
[[ ! -s scontrol.txt ]] || fail "a job without progress is queued again"

# Several nodes: an array, with both launchers.
export SLURM_ARRAY_JOB_ID=90 SLURM_ARRAY_TASK_ID=3 SLURM_JOB_ID=93 RUN=array
for launch in srun mpirun; do
  LAUNCH=$launch job "$scripts/multi_node.sh" train/steps=100000
  await "^step [0-9]+/100000" job.txt
  [[ -e array_3/heartbeat/rank_0 ]] || fail "no watchdog"
  kill -USR1 "$pid"
  ends_with 75 job.txt
  [[ "$(cat scontrol.txt)" == "requeue 90_3" ]] || fail "the array's job is not queued again"
  [[ -s "$launch.txt" ]] || fail "$launch was not used"
done
grep -q -- '--kill-on-bad-exit=1' srun.txt || fail "srun would wait for ranks that are left"
grep -q '^seed = 3 ' array_3/effective.toml || fail "the seed is not the array's"
LAUNCH=ssh job "$scripts/multi_node.sh"
ends_with 2 job.txt
