# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Kokkos and Kokkos Kernels: an installed one first, then what scripts/build_deps.sh has built.
# Nothing is downloaded here.

set(KOKOMOE_DEPS_CACHE AUTO CACHE STRING
    "Libraries from scripts/build_deps.sh: AUTO (after an installed Kokkos), ONLY or NEVER")

# A cached find result that came from the deps cache may be out of date: look again.
if(KOKOMOE_DEPS_PREFIX)
  foreach(package Kokkos KokkosKernels)
    string(FIND "${${package}_DIR}" "${KOKOMOE_DEPS_PREFIX}/" at)
    if(at EQUAL 0)
      unset(${package}_DIR CACHE)
    endif()
  endforeach()
  unset(KOKOMOE_DEPS_PREFIX CACHE)
endif()

if(NOT KOKOMOE_DEPS_CACHE STREQUAL "ONLY")
  # One call for each major version: Kokkos' version file refuses ranges across them.
  foreach(version 5.0 4.7)
    if(NOT Kokkos_FOUND)
      find_package(Kokkos ${version} CONFIG QUIET)
    endif()
  endforeach()
endif()

set(kokomoe_deps_backend "${KOKOMOE_BACKEND}")
if(NOT kokomoe_deps_backend)
  set(kokomoe_deps_backend openmp)
endif()
if(NOT Kokkos_FOUND)
  if(Kokkos_CONSIDERED_VERSIONS)
    message(STATUS "Kokkos ${Kokkos_CONSIDERED_VERSIONS} at ${Kokkos_CONSIDERED_CONFIGS} is too "
            "old: Kokomoe needs 4.7 or later")
  endif()
  if(NOT KOKOMOE_DEPS_CACHE STREQUAL "NEVER")
    kokomoe_deps_prefix(${kokomoe_deps_backend} kokomoe_prefix kokomoe_prefix_is_built)
    if(kokomoe_prefix_is_built)
      find_package(Kokkos 4.7 CONFIG REQUIRED PATHS "${kokomoe_prefix}" NO_DEFAULT_PATH)
      set(KOKOMOE_DEPS_PREFIX "${kokomoe_prefix}" CACHE INTERNAL "From scripts/build_deps.sh")
    endif()
  endif()
endif()
if(NOT Kokkos_FOUND)
  message(FATAL_ERROR
    "No Kokkos >= 4.7 found.\n"
    "Either build it once, outside this folder, with\n"
    "    scripts/build_deps.sh ${kokomoe_deps_backend}\n"
    "or name an installed one with -DCMAKE_PREFIX_PATH=... or -DKokkos_ROOT=...")
endif()
message(STATUS "Kokkos ${Kokkos_VERSION} from ${Kokkos_DIR}")

# One execution space per build, and the one that the preset promises.
function(kokomoe_require_kokkos kind name flag)
  kokkos_check(${kind} ${name} RETURN_VALUE has)
  if(NOT has)
    message(FATAL_ERROR
      "The Kokkos at ${Kokkos_DIR} has no ${name}, which KOKOMOE_BACKEND=${KOKOMOE_BACKEND} needs: "
      "build Kokkos with -D${flag}=ON, or run scripts/build_deps.sh ${kokomoe_deps_backend} and "
      "configure with -DKOKOMOE_DEPS_CACHE=ONLY.")
  endif()
endfunction()

if(KOKOMOE_BACKEND MATCHES "^(openmp|debug)$")
  kokomoe_require_kokkos(DEVICES OPENMP Kokkos_ENABLE_OPENMP)
elseif(KOKOMOE_BACKEND MATCHES "^(threads|tsan)$")
  kokomoe_require_kokkos(DEVICES THREADS Kokkos_ENABLE_THREADS)
elseif(KOKOMOE_BACKEND MATCHES "^cuda(_sm[0-9]+)?$")
  kokomoe_require_kokkos(DEVICES CUDA Kokkos_ENABLE_CUDA)
elseif(KOKOMOE_BACKEND MATCHES "^(serial|asan)$")
  kokomoe_require_kokkos(DEVICES SERIAL Kokkos_ENABLE_SERIAL)
  set(kokomoe_other_devices ${Kokkos_DEVICES})
  list(REMOVE_ITEM kokomoe_other_devices SERIAL)
  if(kokomoe_other_devices)
    message(FATAL_ERROR
      "The Kokkos at ${Kokkos_DIR} has ${kokomoe_other_devices} beside Serial, so its default "
      "execution space is not the one that KOKOMOE_BACKEND=${KOKOMOE_BACKEND} promises: build "
      "Kokkos with -DKokkos_ENABLE_${kokomoe_other_devices}=OFF, or run scripts/build_deps.sh "
      "${kokomoe_deps_backend} and configure with -DKOKOMOE_DEPS_CACHE=ONLY.")
  endif()
elseif(KOKOMOE_BACKEND)
  message(FATAL_ERROR "Unknown KOKOMOE_BACKEND '${KOKOMOE_BACKEND}'")
endif()
if(KOKOMOE_BACKEND STREQUAL "debug")
  kokomoe_require_kokkos(OPTIONS DEBUG_BOUNDS_CHECK Kokkos_ENABLE_DEBUG_BOUNDS_CHECK)
endif()

# Beside Kokkos where it has the same prefix, as from the deps cache and from Spack views.
if(KOKOMOE_DEPS_PREFIX)
  find_package(KokkosKernels CONFIG REQUIRED PATHS "${KOKOMOE_DEPS_PREFIX}" NO_DEFAULT_PATH)
else()
  find_package(KokkosKernels CONFIG QUIET HINTS "${Kokkos_DIR}/../../..")
  if(NOT KokkosKernels_FOUND)
    message(FATAL_ERROR
      "Kokkos is at ${Kokkos_DIR}, but no Kokkos Kernels was found for it. Name one with "
      "-DKokkosKernels_ROOT=..., built with KokkosKernels_ENABLE_TPL_BLAS=ON, "
      "KokkosKernels_INST_FLOAT=ON, KokkosKernels_INST_DOUBLE=ON and "
      "KokkosKernels_INST_LAYOUTRIGHT=ON; or run scripts/build_deps.sh ${kokomoe_deps_backend} and "
      "configure with -DKOKOMOE_DEPS_CACHE=ONLY.")
  endif()
endif()
message(STATUS "Kokkos Kernels ${KokkosKernels_VERSION} from ${KokkosKernels_DIR}")
