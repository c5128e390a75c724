# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# The readers of files from outside, against hostile ones: docs/fuzzing.md. The test fuzz_corpus
# feeds them the files in tests/fuzz/corpus; with KOKOMOE_FUZZ there are libFuzzer's programs too.

option(KOKOMOE_FUZZ "libFuzzer programs fuzz_deck, fuzz_manifest and fuzz_state; clang only" OFF)

set(kokomoe_fuzz_folder "${PROJECT_SOURCE_DIR}/tests/fuzz")
set(kokomoe_fuzz_sources deck.cpp manifest.cpp state.cpp state_builder.cpp)
list(TRANSFORM kokomoe_fuzz_sources PREPEND "${kokomoe_fuzz_folder}/")

function(kokomoe_fuzz_flags target)
  kokomoe_apply_flags(${target})
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/tests"
    "${PROJECT_SOURCE_DIR}/src")
  set_target_properties(${target} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/tests")
endfunction()

# The test. A program of its own: HDF5 keeps what these files do to it.
function(kokomoe_fuzz_corpus_test)
  add_executable(fuzz_corpus ${kokomoe_fuzz_sources} "${kokomoe_fuzz_folder}/replay.cpp")
  target_link_libraries(fuzz_corpus PRIVATE kokomoe_io Kokomoe::hdf5)
  kokomoe_fuzz_flags(fuzz_corpus)
  # HDF5 2.0 and later: see kokomoe_io.
  if(HDF5_VERSION VERSION_GREATER_EQUAL 2)
    set_target_properties(fuzz_corpus PROPERTIES DISABLE_PRECOMPILE_HEADERS ON)
  endif()
  add_test(NAME fuzz_corpus COMMAND fuzz_corpus "${kokomoe_fuzz_folder}/corpus")
  kokomoe_set_test(fuzz_corpus LABELS unit ENVIRONMENT ${kokomoe_two_threads})
endfunction()

# The programs, and the readers' sources compiled anew with libFuzzer's counters. Of Kokkos only
# headers are needed, so one that another compiler has built will do.
function(kokomoe_fuzz_programs)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "KOKOMOE_FUZZ needs clang: scripts/fuzz.sh configures with it")
  endif()
  set(sources core/error.cpp io/deck.cpp io/deck_check.cpp io/digest.cpp io/disk.cpp io/files.cpp
      io/manifest.cpp io/schema.cpp io/state_read.cpp io/tensor_pieces.cpp io/toml_reader.cpp)
  list(TRANSFORM sources PREPEND "${PROJECT_SOURCE_DIR}/src/")
  set(version "${PROJECT_BINARY_DIR}/version.cpp") # made for src
  set_source_files_properties("${version}" PROPERTIES GENERATED ON)
  add_library(kokomoe_fuzzed STATIC EXCLUDE_FROM_ALL ${kokomoe_fuzz_sources} ${sources}
    "${version}")
  add_dependencies(kokomoe_fuzzed kokomoe_version)
  target_link_libraries(kokomoe_fuzzed PUBLIC Kokkos::kokkos Kokomoe::hdf5
    PRIVATE nlohmann_json::nlohmann_json toml11::toml11)
  if(KOKOMOE_HAVE_MPI)
    target_link_libraries(kokomoe_fuzzed PUBLIC MPI::MPI_CXX)
    target_compile_definitions(kokomoe_fuzzed PRIVATE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)
  endif()
  target_include_directories(kokomoe_fuzzed SYSTEM PRIVATE "${XXHASH_INCLUDE_DIR}")
  target_include_directories(kokomoe_fuzzed PRIVATE "${PROJECT_SOURCE_DIR}/include"
    "${PROJECT_BINARY_DIR}/include")
  target_compile_definitions(kokomoe_fuzzed PRIVATE XXH_INLINE_ALL)
  kokomoe_fuzz_flags(kokomoe_fuzzed)
  # A number that does not fit where it is put is a mistake here, though clang's set leaves it out.
  target_compile_options(kokomoe_fuzzed PRIVATE
    -fsanitize=fuzzer-no-link,float-cast-overflow -fno-sanitize-recover=all)

  add_custom_target(fuzzers)
  foreach(target deck manifest state)
    add_executable(fuzz_${target} EXCLUDE_FROM_ALL "${kokomoe_fuzz_folder}/entry.cpp")
    target_link_libraries(fuzz_${target} PRIVATE kokomoe_fuzzed)
    target_link_options(fuzz_${target} PRIVATE -fsanitize=fuzzer)
    target_compile_definitions(fuzz_${target} PRIVATE KOKOMOE_FUZZ_TARGET=${target})
    kokomoe_fuzz_flags(fuzz_${target})
    add_dependencies(fuzzers fuzz_${target})
  endforeach()
endfunction()

if(TARGET kokomoe_io AND KOKOMOE_HAVE_HDF5)
  kokomoe_fuzz_corpus_test()
  if(KOKOMOE_FUZZ)
    kokomoe_fuzz_programs()
  endif()
elseif(KOKOMOE_FUZZ)
  message(FATAL_ERROR "KOKOMOE_FUZZ needs KOKOMOE_ENABLE_HDF5=ON")
endif()
