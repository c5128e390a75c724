#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# run.sh [--minimal] BINARY_DIR WORK CMAKE CXX: installs Kokomoe into WORK, then builds and runs the
# program in this folder from a copy elsewhere. --minimal compiles the library anew, without MPI and
# HDF5, first.
set -euo pipefail
minimal=false
if [[ "$1" == --minimal ]]; then
  minimal=true
  shift
fi
binary="$1" work="$2" cmake="$3" cxx="$4"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
setting() { sed -n "s/^$1:[A-Z]*=//p" "$binary/CMakeCache.txt"; }

rm -rf "$work"
mkdir -p "$work/user"
if $minimal; then
  "$cmake" -S "$here/../.." -B "$work/build" -G "$(setting CMAKE_GENERATOR)" \
    "-DCMAKE_BUILD_TYPE=$(setting CMAKE_BUILD_TYPE)" "-DCMAKE_CXX_COMPILER=$cxx" \
    "-DKOKOMOE_BACKEND=$(setting KOKOMOE_BACKEND)" \
    "-DKOKOMOE_DEPS_CACHE=$(setting KOKOMOE_DEPS_CACHE)" \
    "-DCMAKE_PREFIX_PATH=$(setting CMAKE_PREFIX_PATH)" \
    -DKOKOMOE_ENABLE_MPI=OFF -DKOKOMOE_ENABLE_HDF5=OFF -DKOKOMOE_ENABLE_TESTS=OFF
  "$cmake" --build "$work/build" --parallel 2
  binary="$work/build"
fi
"$cmake" --install "$binary" --prefix "$work/prefix" >"$work/install.log"

cp "$here/CMakeLists.txt" "$here/main.cpp" "$work/user/"
cd "$work/user"
"$cmake" -S . -B build "-DCMAKE_CXX_COMPILER=$cxx" -DCMAKE_BUILD_TYPE=Release \
  "-DKokomoe_ROOT=$work/prefix"
"$cmake" --build build
./build/install_test
