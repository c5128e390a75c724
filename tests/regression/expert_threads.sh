#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Experts give the same bits with any number of threads: an expert's rows and channels are cut into
# units by their numbers alone.
set -euo pipefail
for threads in 1 2 3; do
  OMP_NUM_THREADS=$threads KOKKOS_NUM_THREADS=$threads OMP_PROC_BIND=false \
    KOKOMOE_WRITE_EXPERTS=$threads "$KOKOMOE_BINARY_DIR/tests/test_moe" '[write-experts]'
done
test -s 1
cmp 1 2
cmp 1 3
