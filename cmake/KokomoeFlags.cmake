# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Compiler flags of our own targets. All targets share them to the letter, position-independent code
# included: a precompiled header holds for one set of flags.

include(CheckCXXCompilerFlag)

# Designated initialisers leave out members that have defaults on purpose.
set(kokomoe_compile_options -Wall -Wextra -Wshadow -Wno-missing-field-initializers)
set(kokomoe_link_options)
if(KOKOMOE_WARNINGS_AS_ERRORS)
  list(APPEND kokomoe_compile_options -Werror)
  if(CMAKE_CXX_COMPILER MATCHES "/nvcc_wrapper$")
    list(APPEND kokomoe_compile_options -Werror=all-warnings) # nvcc's own
  endif()
endif()
# These come from the optimizer, about inlined library code, and are mostly wrong in GCC 12 and 13.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND kokomoe_compile_options -Wno-array-bounds -Wno-stringop-overflow
       -Wno-stringop-overread -Wno-restrict -Wno-dangling-pointer)
  if(KOKOMOE_WARNINGS_AS_ERRORS)
    list(APPEND kokomoe_compile_options -Wno-error=maybe-uninitialized)
  endif()
endif()

list(APPEND kokomoe_compile_options -fPIC)
# "#pragma omp simd" must mean the same without OpenMP: it decides in which order a row is summed.
list(APPEND kokomoe_compile_options -fopenmp-simd)
# Nothing here reads errno after a math call or traps on floating-point exceptions; without these
# two, loops with sqrt or comparisons do not vectorise. Results stay the same.
foreach(flag fno-semantic-interposition fno-math-errno fno-trapping-math)
  check_cxx_compiler_flag(-${flag} KOKOMOE_HAS_${flag})
  if(KOKOMOE_HAS_${flag})
    list(APPEND kokomoe_compile_options -${flag})
  endif()
endforeach()

# A row's bits must not depend on where it lies in memory: no scalar steps up to an aligned address.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT Kokkos_ENABLE_CUDA)
  list(APPEND kokomoe_compile_options --param=vect-max-peeling-for-alignment=0)
endif()

if(CMAKE_BUILD_TYPE STREQUAL "Debug")
  # At -O0 Kokkos' inlining layers make tests of kernels take minutes.
  list(APPEND kokomoe_compile_options -O1)
endif()
if(KOKOMOE_SANITIZE)
  list(APPEND kokomoe_compile_options -fsanitize=${KOKOMOE_SANITIZE} -fno-sanitize-recover=all
       -fno-omit-frame-pointer)
  list(APPEND kokomoe_link_options -fsanitize=${KOKOMOE_SANITIZE})
  if(KOKOMOE_SANITIZE MATCHES "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Kokkos has fences that the sanitizer does not know; the atomics beside them, it does.
    list(APPEND kokomoe_compile_options -Wno-tsan)
  endif()
endif()

set(kokomoe_use_pch OFF)
if(KOKOMOE_ENABLE_PCH AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT Kokkos_ENABLE_CUDA)
  set(kokomoe_use_pch ON)
endif()

if(KOKOMOE_ENABLE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(KOKOMOE_CCACHE ccache)
  mark_as_advanced(KOKOMOE_CCACHE)
  if(KOKOMOE_CCACHE)
    # nvcc -E shows what the device sees alone; a change to the host's part must count too, so
    # results go by the files that were included.
    set(kokomoe_ccache_depend)
    if(Kokkos_ENABLE_CUDA)
      set(kokomoe_ccache_depend CCACHE_DEPEND=1)
    endif()
    # Paths under the source folder count as relative, so that clones share results.
    set(CMAKE_CXX_COMPILER_LAUNCHER
        ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros
        CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} ${kokomoe_ccache_depend} ${KOKOMOE_CCACHE})
    if(kokomoe_use_pch)
      list(APPEND kokomoe_compile_options -fpch-preprocess)
    endif()
  endif()
endif()

if(kokomoe_use_pch)
  set(kokomoe_pch_source "${PROJECT_BINARY_DIR}/kokomoe_pch.cpp")
  file(CONFIGURE OUTPUT "${kokomoe_pch_source}" CONTENT "// Only carries the precompiled header.\n")
  add_library(kokomoe_pch OBJECT "${kokomoe_pch_source}")
  target_link_libraries(kokomoe_pch PRIVATE Kokkos::kokkos)
  target_compile_options(kokomoe_pch PRIVATE ${kokomoe_compile_options})
  target_precompile_headers(kokomoe_pch PRIVATE <Kokkos_Core.hpp>)
endif()

# Flags, the shared precompiled header, and nothing of it for those who link to the target.
function(kokomoe_apply_flags target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
  target_compile_options(${target} PRIVATE ${kokomoe_compile_options})
  target_link_options(${target} PRIVATE ${kokomoe_link_options})
  if(kokomoe_use_pch)
    target_precompile_headers(${target} REUSE_FROM kokomoe_pch)
  endif()
endfunction()
