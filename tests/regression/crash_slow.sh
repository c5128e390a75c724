#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
# labels: slow
# timeout: 7200

# Kills at 50 random moments, and at every operation of a save, on one rank and on two that hold the
# experts between them, where each of the two dies in turn.
source "$(dirname "${BASH_SOURCE[0]}")/_crash.sh"
random_kills 50 21
if [[ -z "$KOKOMOE_KILL_LIBRARY" ]]; then
  echo "no library to preload in this build: kills at chosen operations are left out" >&2
  exit 0
fi
planned_kills 1 0 all
if [[ -n "$KOKOMOE_MPIEXEC" ]]; then
  export OMP_NUM_THREADS=1 KOKKOS_NUM_THREADS=1 OMP_PROC_BIND=false
  planned_kills 2 0 all parallel/expert_ranks=2
  planned_kills 2 1 all parallel/expert_ranks=2
fi
