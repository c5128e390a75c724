# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# What must be settled before the compiler is looked for.

# Where scripts/build_deps.sh has put, or would put, the libraries for a backend.
function(kokomoe_deps_prefix backend prefix_variable built_variable)
  # nvcc's wrapper lies among the libraries that it was built with.
  if(backend MATCHES "^cuda" AND CMAKE_CXX_COMPILER MATCHES "^(.*)/bin/nvcc_wrapper$")
    set(prefix "${CMAKE_MATCH_1}")
    if(EXISTS "${prefix}/kokomoe-deps.txt")
      set(${prefix_variable} "${prefix}" PARENT_SCOPE)
      set(${built_variable} TRUE PARENT_SCOPE)
      return()
    endif()
  endif()
  set(environment)
  if(CMAKE_CXX_COMPILER)
    set(environment "CXX=${CMAKE_CXX_COMPILER}")
  endif()
  execute_process(
    COMMAND ${CMAKE_COMMAND} -E env ${environment}
            bash "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../scripts/build_deps.sh" --print-prefix
            ${backend}
    OUTPUT_VARIABLE prefix RESULT_VARIABLE result
    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  set(${prefix_variable} "${prefix}" PARENT_SCOPE)
  if(result EQUAL 0)
    set(${built_variable} TRUE PARENT_SCOPE)
  else()
    set(${built_variable} FALSE PARENT_SCOPE)
  endif()
endfunction()

# nvcc knows no C++20 through CMake 3.25's CUDA language: Kokkos' wrapper is the C++ compiler.
if(KOKOMOE_BACKEND MATCHES "^cuda" AND NOT CMAKE_CXX_COMPILER)
  kokomoe_deps_prefix(${KOKOMOE_BACKEND} prefix built)
  if(built)
    set(CMAKE_CXX_COMPILER "${prefix}/bin/nvcc_wrapper" CACHE FILEPATH "")
  endif()
endif()

get_property(kokomoe_multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
if(NOT CMAKE_BUILD_TYPE AND NOT kokomoe_multi_config)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo or MinSizeRel")
endif()
