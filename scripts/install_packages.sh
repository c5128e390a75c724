#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Installs the Debian packages that Kokomoe is built and tested with, as root or through sudo; says
# what it would run, and ends with 1, where it can do neither. Does nothing when all are there.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

packages=(
  # to build
  build-essential gfortran cmake ninja-build ccache git
  # to get Kokkos' sources, run the scripts
  ca-certificates python3 python3-pip python3-venv python3-numpy
  # libraries
  libopenblas-openmp-dev libopenmpi-dev openmpi-bin libhdf5-openmpi-dev libtoml11-dev
  nlohmann-json3-dev libcli11-dev librandom123-dev libxxhash-dev libsentencepiece-dev
  # tests and benchmarks
  catch2 libbenchmark-dev
  # text to train on
  bible-kjv
)

command -v dpkg-query >/dev/null || die "this is not a Debian system; the packages to look for: \
${packages[*]}"
missing=()
for package in "${packages[@]}"; do
  # Another package may provide it, as libhdf5-dev's kin do: only the exact one counts as there.
  state="$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)"
  [[ "$state" == installed ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  note "all ${#packages[@]} packages are installed"
  exit 0
fi

install=(apt-get install --yes --no-install-recommends "${missing[@]}")
if ((EUID == 0)); then
  root=()
elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
  root=(sudo)
else
  note "${#missing[@]} packages are missing, and this user is not root and has no sudo. As root, run:"
  printf 'apt-get update && %s\n' "${install[*]}" >&2
  exit 1
fi

stage "installing ${#missing[@]} packages: ${missing[*]}"
run() { # apt's own questions and progress bars are for people at a terminal
  note "${root[*]} $*"
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive "$@" >&2 </dev/null
}
# The lists may be old or absent; an update that fails in part may still do.
run apt-get update --quiet || note "apt-get update failed: trying with the lists at hand"
run apt-get -o Dpkg::Use-Pty=0 --quiet "${install[@]:1}"
