#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# scripts/gpu_check.sh knows what to build for which GPU, and says why it cannot go on without nvcc, a
# driver, or a GPU that Kokkos knows. With pretended ones; nothing is built.
set -euo pipefail
fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# A PATH that holds what the script uses, and what this test puts there.
mkdir bin
for tool in bash dirname nproc realpath tr; do ln -s "$(command -v "$tool")" bin/; done

# check CODE TEXT ARGUMENT...: exit code, and a part of the output.
check() {
  local code="$1" text="$2" status=0 output
  shift 2
  output="$(PATH="$PWD/bin" bash "$KOKOMOE_SOURCE_DIR/scripts/gpu_check.sh" "$@" 2>&1)" || status=$?
  [[ $status == "$code" && "$output" == *"$text"* ]] ||
    fail "expected exit $code and '$text', got exit $status and '$output'"
}
gpu() { # what nvidia-smi says
  printf '#!/bin/bash\necho "%s"\n' "$1" >bin/nvidia-smi
  chmod +x bin/nvidia-smi
}

check 2 "no nvcc on PATH"
printf '#!/bin/bash\nprintf "sm_%%s\\n" 75 80 86 87 89 90 120\n' >bin/nvcc
chmod +x bin/nvcc
check 2 "no nvidia-smi on PATH"
printf '#!/bin/bash\nexit 9\n' >bin/nvidia-smi
chmod +x bin/nvidia-smi
check 2 "nvidia-smi finds no GPU"
gpu "No devices were found"
check 2 "nvidia-smi finds no GPU"
check 2 "usage" --nothing
gpu "7.0, NVIDIA V100, 16160 MiB, 550.54"
check 2 "NVIDIA V100 has compute capability 7.0" --backend
gpu "10.0, NVIDIA B200, 183359 MiB, 580.65"
check 2 "no code for sm_100 (NVIDIA B200)" --backend

while read -r capability backend; do
  gpu "$capability, NVIDIA GPU, 1 MiB, 1.0"
  found="$(PATH="$PWD/bin" bash "$KOKOMOE_SOURCE_DIR/scripts/gpu_check.sh" --backend)" || true
  [[ "$found" == "$backend" ]] || fail "$capability: $found, expected $backend"
done <<'TABLE'
7.5 cuda_sm75
8.0 cuda_sm80
8.6 cuda_sm86
8.7 cuda_sm87
8.8 cuda_sm86
8.9 cuda_sm89
9.0 cuda
12.1 cuda_sm120
TABLE
echo "passed"
