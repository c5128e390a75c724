# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Sourced by the other scripts: what they all need to know.

kokomoe_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export KOKOMOE_DEPS_DIR="${KOKOMOE_DEPS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/kokomoe}"
kokomoe_jobs="${KOKOMOE_JOBS:-$(nproc)}"

# Messages go to standard error, so that a script's standard output stays its result.
stage() { printf '== %s\n' "$*" >&2; }
note() { printf '   %s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Debian's own interpreter first: another Python on PATH may lack numpy.
kokomoe_python() {
  if [[ -n "${KOKOMOE_PYTHON:-}" ]]; then
    echo "$KOKOMOE_PYTHON"
  elif [[ -x /usr/bin/python3 ]]; then
    echo /usr/bin/python3
  else
    command -v python3 || die "no python3 found: run scripts/install_packages.sh"
  fi
}

have_sha256() { # file, sum
  [[ -f "$1" ]] && [[ "$(sha256sum "$1" | cut -d' ' -f1)" == "$2" ]]
}

# What trains: packages, Kokkos, the program of the openmp preset, which becomes $program.
build_program() {
  cd "$kokomoe_root"
  export OMP_PROC_BIND="${OMP_PROC_BIND:-spread}" OMP_PLACES="${OMP_PLACES:-cores}"
  stage "packages"
  scripts/install_packages.sh
  stage "Kokkos and Kokkos Kernels"
  note "$(scripts/build_deps.sh openmp | tail -n 1)"
  stage "build"
  cmake --preset openmp >&2
  cmake --build build/openmp --parallel "$kokomoe_jobs" --target kokomoe >&2
  program=build/openmp/bin/kokomoe
}

# launcher_of RANKS: what starts a program on them, of one thread each unless OMP_NUM_THREADS says more;
# nothing for one rank. Without binding, or all threads of a rank would share a core.
launcher_of() {
  ((${1} > 1)) || return 0
  echo "env OMP_PROC_BIND=false OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}" \
    "mpirun --allow-run-as-root --oversubscribe --bind-to none -n $1"
}

# train_or_go_on DECK RUN [OVERRIDE...]: ends the script with 75 when something stopped it.
train_or_go_on() {
  local deck="$1" run="$2" resume=() status=0
  shift 2
  [[ ! -d "$run" ]] || resume=(-r last)
  # shellcheck disable=SC2086
  ${launcher:-} "$program" train -i "$deck" -d "$run" "${resume[@]}" "$@" || status=$?
  ((status != 75)) || note "stopped after saving: run this script again to go on"
  ((status == 0)) || exit "$status"
}
