#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# launch_arguments.sh BUILD: every kernel in the libraries of a CUDA build gets what it captures as
# arguments of its launch. Through constant or global memory the host waits: see InArguments in
# core/row_kernels.hpp.
set -euo pipefail

libraries=("$1"/src/libkokomoe_*.a)
symbols="$(nm -C "${libraries[@]}" 2>/dev/null | grep -o 'cuda_parallel_launch_[a-z]*_memory<.*')" || true
count="$(grep -c '^cuda_parallel_launch_local_memory<' <<<"$symbols" || true)"
((count > 0)) || {
  echo "no kernel found in ${libraries[*]}: is this a CUDA build, with static libraries?" >&2
  exit 1
}
others="$(grep -v '^cuda_parallel_launch_local_memory<' <<<"$symbols" | cut -c 1-400 | sort -u || true)"
if [[ -n "$others" ]]; then
  printf 'kernels that capture more than 512 bytes without InArguments:\n%s\n' "$others" >&2
  exit 1
fi
echo "$count symbols of kernels, all with arguments"
