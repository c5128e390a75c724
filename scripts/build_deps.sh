#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Builds Kokkos 4.7.0 and Kokkos Kernels 4.5.1 for one backend into a cache outside the clone.
#
#   scripts/build_deps.sh [--print-prefix] [openmp|serial|threads|debug|asan|tsan|cuda|cuda_smNN]
#
# cuda stands for sm_90. Kokkos takes one GPU architecture a build: cuda_sm80 and so on for others.
# The folder's name holds a hash of backend, compiler, CPU and recipe: libraries built with native
# flags crash on another CPU. Nothing is done when that folder is complete. The last line printed
# is the folder. --print-prefix only prints it, and exits with 3 when it has not been built.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

print_only=false
if [[ "${1:-}" == --print-prefix ]]; then
  print_only=true
  shift
fi
backend="${1:-openmp}"
cxx="${CXX:-g++}"
cuda_arch=

kokkos_options=(
  -DCMAKE_BUILD_TYPE=Release
  -DCMAKE_CXX_STANDARD=20
  -DCMAKE_CXX_EXTENSIONS=OFF
  -DCMAKE_POSITION_INDEPENDENT_CODE=ON
  -DBUILD_SHARED_LIBS=OFF
  -DKokkos_ENABLE_SERIAL=ON
  -DKokkos_ENABLE_TESTS=OFF
  -DKokkos_ENABLE_EXAMPLES=OFF
  -DKokkos_ENABLE_DEPRECATED_CODE_4=OFF
)
# KOKOMOE_NATIVE=OFF with CXXFLAGS="-march=..." makes libraries, and images, for other machines.
native="${KOKOMOE_NATIVE:-ON}"
[[ "$native" == OFF ]] || kokkos_options+=(-DKokkos_ARCH_NATIVE=ON)
flags="${CXXFLAGS:-}"
case "$backend" in
openmp) kokkos_options+=(-DKokkos_ENABLE_OPENMP=ON) ;;
serial) ;;
threads) kokkos_options+=(-DKokkos_ENABLE_THREADS=ON) ;;
debug)
  kokkos_options+=(-DKokkos_ENABLE_OPENMP=ON -DKokkos_ENABLE_DEBUG=ON
    -DKokkos_ENABLE_DEBUG_BOUNDS_CHECK=ON)
  flags+=" -O1 -g1"
  ;;
asan)
  # Serial alone: libgomp is not instrumented.
  flags+=" -O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined"
  ;;
tsan)
  kokkos_options+=(-DKokkos_ENABLE_THREADS=ON)
  flags+=" -O1 -g1 -fno-omit-frame-pointer -fsanitize=thread"
  ;;
cuda | cuda_sm[0-9]*)
  [[ "$backend" != cuda_sm90 ]] || backend=cuda
  cuda_arch="${backend#cuda}"
  cuda_arch="${cuda_arch#_sm}"
  case "${cuda_arch:=90}" in
  75) cuda_name=TURING ;;
  80 | 86 | 87) cuda_name=AMPERE ;;
  89) cuda_name=ADA ;;
  90) cuda_name=HOPPER ;;
  100 | 120) cuda_name=BLACKWELL ;;
  *) die "Kokkos 4.7.0 knows no sm_$cuda_arch: 75, 80, 86, 87, 89, 90, 100 or 120" ;;
  esac
  kokkos_options+=(-DKokkos_ENABLE_CUDA=ON "-DKokkos_ARCH_$cuda_name$cuda_arch=ON"
    -DKokkos_ENABLE_CUDA_CONSTEXPR=ON)
  ;;
*) die "unknown backend '$backend': openmp, serial, threads, debug, asan, tsan, cuda or cuda_smNN" ;;
esac

kernels_options=(
  -DKokkosKernels_ENABLE_ALL_COMPONENTS=OFF
  -DKokkosKernels_ENABLE_COMPONENT_BLAS=ON
  -DKokkosKernels_ENABLE_TPL_BLAS=ON
  -DKokkosKernels_ADD_DEFAULT_ETI=OFF
  -DKokkosKernels_INST_FLOAT=ON
  -DKokkosKernels_INST_DOUBLE=ON
  -DKokkosKernels_INST_LAYOUTRIGHT=ON
  -DKokkosKernels_INST_LAYOUTLEFT=ON
  -DKokkosKernels_ENABLE_TESTS=OFF
  -DKokkosKernels_ENABLE_EXAMPLES=OFF
  -DKokkosKernels_ENABLE_PERFTESTS=OFF
  "-DBLA_VENDOR=${BLA_VENDOR:-OpenBLAS}"
)
if [[ -n "$cuda_arch" ]]; then
  # nvcc takes ten minutes for one type and layout; the others are for tests, and need no cuBLAS.
  kernels_options=("${kernels_options[@]/INST_DOUBLE=ON/INST_DOUBLE=OFF}")
  kernels_options=("${kernels_options[@]/INST_LAYOUTLEFT=ON/INST_LAYOUTLEFT=OFF}")
  kernels_options+=(-DKokkosKernels_ENABLE_TPL_CUBLAS=ON -DKokkosKernels_ENABLE_TPL_CUSPARSE=OFF
    -DKokkosKernels_ENABLE_TPL_CUSOLVER=OFF)
fi

command -v "$cxx" >/dev/null || die "no C++ compiler '$cxx': run scripts/install_packages.sh"
compiler_version="$("$cxx" -dumpfullversion 2>/dev/null || "$cxx" -dumpversion)"
cpu="$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)"
# The predefined macros say which instructions -march=native stands for.
macros="$("$cxx" -march=native -dM -E -x c++ /dev/null 2>/dev/null | sort)"
instructions="$(sha256sum <<<"$macros")"
# By what it is, not by its name: CMake says /usr/bin/c++ where a person says g++.
compiler_name=gcc
case "$macros" in
*__INTEL_LLVM_COMPILER*) compiler_name=icpx ;;
*__clang__*) compiler_name=clang ;;
esac
nvcc_version=
if [[ -n "$cuda_arch" ]]; then
  command -v nvcc >/dev/null || die "no nvcc on PATH"
  nvcc_version="$(nvcc --version | tail -n 2)"
fi
if [[ "$native" == OFF ]]; then
  cpu= instructions=
fi
recipe="$(printf '%s\n' 2 "$backend" "$compiler_name" "$compiler_version" "$cpu" \
  "$instructions" "$flags" "$nvcc_version" "${kokkos_options[@]}" "${kernels_options[@]}" \
  "$(sha256sum <"$kokomoe_root/scripts/fetch_archives.sh")")"
hash="$(sha256sum <<<"$recipe" | cut -c 1-12)"
prefix="$KOKOMOE_DEPS_DIR/kokkos-4.7.0-$backend-$compiler_name$compiler_version-$hash"
stamp="$prefix/kokomoe-deps.txt"

if $print_only; then
  echo "$prefix"
  [[ -f "$stamp" ]] || exit 3
  exit 0
fi
if [[ -f "$stamp" ]]; then
  echo "$prefix"
  exit 0
fi

mkdir -p "$KOKOMOE_DEPS_DIR"
exec 9>"$KOKOMOE_DEPS_DIR/lock"
flock 9
if [[ -f "$stamp" ]]; then # another run built it while this one waited
  echo "$prefix"
  exit 0
fi

for tool in cmake ninja gfortran; do
  command -v "$tool" >/dev/null || die "no $tool: run scripts/install_packages.sh"
done
"$kokomoe_root/scripts/fetch_archives.sh"
archives="$KOKOMOE_DEPS_DIR/archives"

stage "building Kokkos 4.7.0 and Kokkos Kernels 4.5.1 for $backend with $cxx $compiler_version"
rm -rf "$prefix" "$prefix".partial.*
partial="$prefix.partial.$$"
mkdir -p "$partial"
work="$(mktemp -d)"
trap 'rm -rf "$work" "$partial"' EXIT
tar -xzf "$archives/pygenten-0.1.5.tar.gz" -C "$work" --strip-components=2 \
  pygenten-0.1.5/tpls/kokkos
tar -xzf "$archives/pycompadre-1.7.6.tar.gz" -C "$work" --strip-components=1 \
  pycompadre-1.7.6/kokkos-kernels

if [[ -n "$cuda_arch" ]]; then
  source "$kokomoe_root/scripts/cuda_deps.sh" # patches $work/kokkos, sets cxx
fi

build() { # name, options
  local name="$1" log="$work/$1.log" begin=$SECONDS
  shift
  if ! { cmake -S "$work/$name" -B "$work/$name-build" -G Ninja "-DCMAKE_CXX_COMPILER=$cxx" \
    "-DCMAKE_CXX_FLAGS=$flags" "-DCMAKE_INSTALL_PREFIX=$partial" -DCMAKE_INSTALL_LIBDIR=lib "$@" &&
    cmake --build "$work/$name-build" --parallel "$kokomoe_jobs" &&
    cmake --install "$work/$name-build"; } >"$log" 2>&1; then
    tail -n 60 "$log" >&2
    die "$name did not build"
  fi
  install -D -m 644 "$work/$name/LICENSE" "$partial/share/licenses/$name/LICENSE"
  note "$name: $((SECONDS - begin)) s"
}
build kokkos "${kokkos_options[@]}"
# Found from its build here, then used from $prefix: the packages' paths are relative.
build kokkos-kernels "${kokkos_options[@]:0:5}" "${kernels_options[@]}" "-DKokkos_ROOT=$partial"

# The packages note the folder that they were installed in, and where their compiler was.
{ grep -rlIF -e "$partial" -e "$work/kokkos/bin" "$partial" || true; } | while read -r file; do
  sed -i "s#$partial#$prefix#g; s#$work/kokkos/bin#$prefix/bin#g" "$file"
done

echo "$recipe" >"$partial/kokomoe-deps.txt.new"
mv "$partial" "$prefix"
mv "$prefix/kokomoe-deps.txt.new" "$stamp" # last: its presence says that all is there
echo "$prefix"
