#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Routing is the same to the bit with 1 and 2 threads: both runs compare with one committed file,
# and what they write of the other routers and of gradients is the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for threads in 1 2; do
  export OMP_NUM_THREADS=$threads KOKKOS_NUM_THREADS=$threads
  "$KOKOMOE_BINARY_DIR/tests/test_moe" '[routing-fixture]'
  KOKOMOE_WRITE_ROUTING=$folder/$threads "$KOKOMOE_BINARY_DIR/tests/test_moe" '[write-routing]'
done
test -s "$folder/1"
cmp "$folder/1" "$folder/2"
