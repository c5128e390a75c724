#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# For a machine with an NVIDIA GPU: builds for the GPU that it finds, runs tests and benchmarks on
# it, and writes a report to send along with a bug, or instead of one.
#
#   scripts/gpu_check.sh [--backend] [REPORT]
#
# REPORT: default build/gpu_check/report.md. --backend only prints which backend of build_deps.sh
# suits the GPU. Ends with 0 when all went well, with 1 when something failed, which is then in the
# report, and with 2 where there is no GPU, no nvcc, or none for this GPU.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
refuse() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

only_backend=false
if [[ "${1:-}" == --backend ]]; then
  only_backend=true
  shift
fi
[[ "${1:-}" != -* && $# -le 1 ]] || refuse "usage: scripts/gpu_check.sh [--backend] [REPORT]"
folder="$kokomoe_root/build/gpu_check"
report="$(realpath -m "${1:-$folder/report.md}")"
cd "$kokomoe_root"

command -v nvcc >/dev/null || refuse "no nvcc on PATH: install the CUDA toolkit"
command -v nvidia-smi >/dev/null || refuse "no nvidia-smi on PATH: is NVIDIA's driver installed?"
gpus="$(nvidia-smi --query-gpu=compute_cap,name,memory.total,driver_version \
  --format=csv,noheader 2>/dev/null)" || refuse "nvidia-smi finds no GPU"
[[ "$gpus" =~ ^([0-9]+)\.([0-9]+),\ *([^,]+), ]] || refuse "nvidia-smi finds no GPU: '$gpus'"
major="${BASH_REMATCH[1]}" minor="${BASH_REMATCH[2]}" gpu="${BASH_REMATCH[3]}"

# The nearest architecture that Kokkos knows: code runs on later ones of the same major number too,
# but for that of 8.7, which is for systems on a chip.
architecture=
for known in 75 80 86 87 89 90 100 120; do
  if ((known == 10 * major + minor || (known / 10 == major && known % 10 < minor && known != 87))); then
    architecture=$known
  fi
done
[[ -n "$architecture" ]] || refuse "$gpu has compute capability $major.$minor, for which Kokkos \
4.7.0 and this script have nothing: 7.5, 8.x, 9.x, 10.x or 12.x"
codes=" $(nvcc --list-gpu-code | tr '\n' ' ')"
[[ "$codes" == *" sm_$architecture "* ]] ||
  refuse "this nvcc makes no code for sm_$architecture ($gpu): nvcc --list-gpu-code lists what it can"
backend=cuda_sm$architecture
((architecture != 90)) || backend=cuda
if $only_backend; then
  echo "$backend"
  exit 0
fi

build="build/$backend"
program="$build/bin/kokomoe"
mkdir -p "$folder" "$(dirname "$report")"
failed=()
# part NAME COMMAND...: what it says goes to build/gpu_check/NAME.txt.
part() {
  local name="$1" begin=$SECONDS
  shift
  stage "$name: $*"
  if "$@" >"$folder/$name.txt" 2>&1; then
    note "$((SECONDS - begin)) s"
  else
    note "FAILED after $((SECONDS - begin)) s: $folder/$name.txt"
    failed+=("$name")
    return 1
  fi
}
configure() {
  scripts/install_packages.sh && scripts/build_deps.sh "$backend" &&
    cmake --preset cuda -B "$build" "-DKOKOMOE_BACKEND=$backend" -DKOKOMOE_DEPS_CACHE=ONLY
}
rm -f "$folder"/*.txt

if part dependencies configure && part build cmake --build "$build" --parallel "$kokomoe_jobs"; then
  scripts/fetch_kjv.sh || true
  part tests ctest --test-dir "$build" --output-on-failure --no-tests=error -LE slow || true
  part bench_gemm "$program" bench gemm || true
  part bench_layer "$program" bench layer || true
  part bench_step "$program" bench step -i inputs/lm/quickstart.toml || true
fi

{
  echo "# Kokomoe on $gpu"
  echo
  echo "| | |"
  echo "| --- | --- |"
  echo "| date | $(date -u '+%Y-%m-%d %H:%M UTC') |"
  echo "| Kokomoe | $(git describe --always --dirty --tags 2>/dev/null || echo unknown) |"
  while IFS=, read -r capability name memory driver; do
    echo "| GPU |$name,$memory, compute capability $capability, driver$driver |"
  done <<<"$gpus"
  echo "| CPU | $(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores |"
  echo "| system | $(. /etc/os-release 2>/dev/null && echo "${PRETTY_NAME:-}"), Linux $(uname -r) |"
  echo "| compilers | $(nvcc --version | sed -n 's/.*release/CUDA/p'); $("${CXX:-g++}" --version | head -n 1) |"
  echo "| backend | $backend |"
  echo "| failed | ${failed[*]:-nothing} |"
  for name in dependencies build tests bench_gemm bench_layer bench_step; do
    file="$folder/$name.txt"
    echo
    echo "## $name"
    echo
    if [[ ! -f "$file" ]]; then
      echo "Not run."
      continue
    fi
    case "$name" in
    tests) show=(grep -E -A 30 '^[0-9]+% tests passed') ;;
    bench_*) show=(cat) ;;
    *) show=(tail -n 3) ;;
    esac
    # Of what failed, the end; the whole is in the file.
    if [[ " ${failed[*]:-} " == *" $name "* ]]; then
      if [[ $name == tests ]]; then show=(tail -n 300); else show=(tail -n 60); fi
    fi
    echo '```text'
    "${show[@]}" "$file" | sed "s#$kokomoe_root/##g" || true
    echo '```'
  done
} >"$report"

stage "report"
note "$report"
((${#failed[@]} == 0)) || die "failed: ${failed[*]}"
