# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# The banner warns when threads outnumber the cores that they may use, and only then.
source "$KOKOMOE_SOURCE_DIR/tests/regression/_common.sh"

if ! command -v taskset >/dev/null || (($(nproc) < 2)); then
  echo "SKIPPED: needs taskset and two cores"
  exit 0
fi
export KOKKOS_NUM_THREADS=2
threads="$("$KOKOMOE_PROGRAM" bench layer --tokens 8 --d-model 8 --d-hidden 8 --experts 2 --repeats 1 \
  --json - 2>/dev/null | grep -Eo '"cores": [0-9]+' | grep -Eo '[0-9]+')"
warning='SLOW: 2 threads of a rank may use 1 core\(s\) only'
if [[ "$threads" == 2 ]]; then
  OMP_PROC_BIND=false expect 0 "$warning" taskset -c 0 "$KOKOMOE_PROGRAM" train -i deck.toml -d bound
fi
expect 0 'thread\(s\)' "$KOKOMOE_PROGRAM" train -i deck.toml -d free
if grep -q SLOW: output.txt; then fail "a warning without a reason: $(cat output.txt)"; fi
# Another backend's threads do not inherit the core that OpenMP binds the first thread to.
OMP_PROC_BIND=spread OMP_PLACES=cores expect 0 'thread\(s\)' \
  "$KOKOMOE_PROGRAM" train -i deck.toml -d bound_by_openmp
if grep -q SLOW: output.txt; then fail "a warning without a reason: $(cat output.txt)"; fi
