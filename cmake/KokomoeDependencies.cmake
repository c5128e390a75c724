# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Everything but Kokkos, from the system. Sets KOKOMOE_HAVE_* to ON or OFF.

set(KOKOMOE_HAVE_MPI OFF)
if(KOKOMOE_ENABLE_MPI)
  find_package(MPI QUIET COMPONENTS CXX)
  if(MPI_CXX_FOUND)
    set(KOKOMOE_HAVE_MPI ON)
  else()
    message(STATUS "No MPI found: one rank only")
  endif()
endif()

find_package(Random123)
if(NOT Random123_FOUND)
  message(FATAL_ERROR "No Random123 (Debian: librandom123-dev): name one with -DRandom123_ROOT=...")
endif()

set(KOKOMOE_HAVE_HDF5 OFF)
set(KOKOMOE_HAVE_SENTENCEPIECE OFF)
if(KOKOMOE_ENABLE_HDF5)
  # With both installed, FindHDF5 would take the serial one.
  set(HDF5_PREFER_PARALLEL ${KOKOMOE_HAVE_MPI})
  include(KokomoeHDF5)
  if(NOT TARGET Kokomoe::hdf5)
    message(FATAL_ERROR
      "No HDF5 found (Debian: libhdf5-openmpi-dev or libhdf5-dev). Name one with -DHDF5_ROOT=..., or "
      "configure with -DKOKOMOE_ENABLE_HDF5=OFF for the library without checkpoints and program.")
  endif()
  set(KOKOMOE_HAVE_HDF5 ON)

  find_package(nlohmann_json CONFIG REQUIRED)
  find_package(toml11 CONFIG REQUIRED)
  # Headers only, with XXH_INLINE_ALL.
  find_path(XXHASH_INCLUDE_DIR xxhash.h REQUIRED)
  mark_as_advanced(XXHASH_INCLUDE_DIR)

  if(KOKOMOE_ENABLE_SENTENCEPIECE)
    find_package(SentencePiece QUIET)
    set(KOKOMOE_HAVE_SENTENCEPIECE ${SentencePiece_FOUND})
  endif()
endif()
# ON or OFF, whatever the find modules said.
foreach(name MPI HDF5 SENTENCEPIECE)
  if(KOKOMOE_HAVE_${name})
    set(KOKOMOE_HAVE_${name} ON)
  else()
    set(KOKOMOE_HAVE_${name} OFF)
  endif()
endforeach()
