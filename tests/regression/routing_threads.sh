#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Routing is the same to the bit with 1 and 2 threads: both runs compare with one committed file.
set -euo pipefail
for threads in 1 2; do
  OMP_NUM_THREADS=$threads KOKKOS_NUM_THREADS=$threads \
    "$KOKOMOE_BINARY_DIR/tests/test_moe" '[routing-fixture]'
done
