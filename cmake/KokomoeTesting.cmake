# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# How tests are built and registered; called from tests/.

# Two threads, each on a core of its own. OpenBLAS has its own threads under the other backends:
# there it gets one, and OpenMP's binding would put the backend's threads on one core.
set(kokomoe_test_environment
    "KOKOMOE_PYTHON=$ENV{KOKOMOE_PYTHON}"
    "ASAN_OPTIONS=detect_stack_use_after_return=0:fast_unwind_on_malloc=0"
    "LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/cmake/lsan.supp:print_suppressions=0"
    "UBSAN_OPTIONS=print_stacktrace=1")
list(FILTER kokomoe_test_environment EXCLUDE REGEX "=$")
set(kokomoe_two_threads "KOKKOS_NUM_THREADS=2")
if(Kokkos_ENABLE_OPENMP)
  list(APPEND kokomoe_two_threads "OMP_NUM_THREADS=2" "OMP_PROC_BIND=spread" "OMP_PLACES=cores")
else()
  list(APPEND kokomoe_two_threads "OMP_NUM_THREADS=1")
endif()
# Open MPI: in containers, with more ranks than cores.
set(kokomoe_mpi_environment
    "OMPI_MCA_plm=isolated" "OMPI_MCA_mpi_yield_when_idle=1"
    "KOKKOS_DISABLE_WARNINGS=1"
    "OMPI_MCA_btl_vader_single_copy_mechanism=none" "OMPI_MCA_btl_base_warn_component_unused=0")

find_program(KOKOMOE_PYTHON_PROGRAM NAMES python3 HINTS /usr/bin NO_DEFAULT_PATH)
find_program(KOKOMOE_PYTHON_PROGRAM NAMES python3)

# kokomoe_set_test(NAME LABELS ... [PROCESSORS n] [TIMEOUT s] [ENVIRONMENT ...])
function(kokomoe_set_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "PROCESSORS;TIMEOUT" "LABELS;ENVIRONMENT")
  if(NOT arg_PROCESSORS)
    set(arg_PROCESSORS 2)
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 600)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" PROCESSORS ${arg_PROCESSORS}
    TIMEOUT ${arg_TIMEOUT} ENVIRONMENT "${kokomoe_test_environment};${arg_ENVIRONMENT}")
endfunction()

# kokomoe_test_executable(TARGET FOLDER COMPONENT...): a program that tests one component builds
# without those above it.
function(kokomoe_test_executable target folder)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${folder}/*.cpp")
  if(NOT sources)
    return()
  endif()
  add_executable(${target} ${sources})
  list(TRANSFORM ARGN PREPEND kokomoe_ OUTPUT_VARIABLE libraries)
  target_link_libraries(${target} PRIVATE kokomoe_test_support ${libraries})
  if(TARGET nlohmann_json::nlohmann_json)
    target_link_libraries(${target} PRIVATE nlohmann_json::nlohmann_json)
  endif()
  set_target_properties(${target} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/tests")
  kokomoe_apply_flags(${target})
endfunction()

function(kokomoe_unit_test component)
  if(NOT TARGET kokomoe_${component})
    return()
  endif()
  kokomoe_test_executable(test_${component} "${PROJECT_SOURCE_DIR}/tests/unit/${component}"
    ${component})
  if(NOT TARGET test_${component})
    return()
  endif()
  # Private headers: kernels that this build would not choose are tested all the same.
  target_include_directories(test_${component} PRIVATE "${PROJECT_SOURCE_DIR}/src")
  # Differences run each kernel thousands of times: with teams on a host, whose barriers spin, and the
  # thread sanitizer that takes hours, and the kernels are run by other cases. Who leaves out some
  # has to leave out the hidden ones too.
  set(cases)
  set(timeout 600)
  if(KOKOMOE_FORCE_TEAM_ROWS GREATER 1)
    set(cases "~[.]~*differences*")
    set(timeout 1800)
  endif()
  add_test(NAME ${component} COMMAND test_${component} ${cases})
  kokomoe_set_test(${component} LABELS unit TIMEOUT ${timeout} ENVIRONMENT ${kokomoe_two_threads})
  # Catch2 leaves cases tagged [.slow] out unless asked.
  get_target_property(sources test_${component} SOURCES)
  foreach(source ${sources})
    file(STRINGS "${source}" slow REGEX "\\[\\.slow\\]")
    if(slow)
      add_test(NAME ${component}_slow COMMAND test_${component} "[slow]")
      kokomoe_set_test(${component}_slow LABELS unit slow TIMEOUT 1800
        ENVIRONMENT ${kokomoe_two_threads})
      return()
    endif()
  endforeach()
endfunction()

# A program of its own: it replaces malloc to count the calls.
function(kokomoe_step_cost_test)
  # Other backends copy and fence in their own ways, and sanitizers have a malloc of their own.
  if(NOT TARGET kokomoe_train OR NOT Kokkos_ENABLE_OPENMP OR KOKOMOE_SANITIZE)
    return()
  endif()
  get_property(components GLOBAL PROPERTY KOKOMOE_COMPONENTS)
  kokomoe_test_executable(test_step_cost "${PROJECT_SOURCE_DIR}/tests/step_cost" ${components})
  if(TARGET test_step_cost)
    # Its functions have to be found by name from their addresses.
    set_target_properties(test_step_cost PROPERTIES ENABLE_EXPORTS ON)
    target_link_libraries(test_step_cost PRIVATE ${CMAKE_DL_LIBS})
    add_test(NAME step_cost COMMAND test_step_cost)
    kokomoe_set_test(step_cost LABELS unit ENVIRONMENT ${kokomoe_two_threads})
  endif()
endfunction()

function(kokomoe_mpi_test)
  get_property(components GLOBAL PROPERTY KOKOMOE_COMPONENTS)
  kokomoe_test_executable(test_mpi "${PROJECT_SOURCE_DIR}/tests/mpi" ${components})
  if(NOT TARGET test_mpi)
    return()
  endif()
  if(NOT KOKOMOE_HAVE_MPI)
    add_test(NAME mpi_1 COMMAND test_mpi)
    kokomoe_set_test(mpi_1 LABELS mpi ENVIRONMENT OMP_NUM_THREADS=1 KOKKOS_NUM_THREADS=1)
    return()
  endif()
  kokomoe_mpiexec_flags(flags)
  foreach(ranks 1 2 3 4)
    add_test(NAME mpi_${ranks} COMMAND ${MPIEXEC_EXECUTABLE} ${flags} ${MPIEXEC_NUMPROC_FLAG}
      ${ranks} ${MPIEXEC_PREFLAGS} $<TARGET_FILE:test_mpi> ${MPIEXEC_POSTFLAGS})
    kokomoe_set_test(mpi_${ranks} LABELS mpi ENVIRONMENT OMP_NUM_THREADS=1 KOKKOS_NUM_THREADS=1
      OMP_PROC_BIND=false ${kokomoe_mpi_environment})
  endforeach()
endfunction()

# Open MPI refuses root, and more ranks than cores, unless told; MPICH knows none of these flags.
function(kokomoe_mpiexec_flags result)
  execute_process(COMMAND ${MPIEXEC_EXECUTABLE} --version OUTPUT_VARIABLE text ERROR_QUIET)
  set(flags)
  if(text MATCHES "OpenRTE|Open MPI|PRRTE")
    set(flags --allow-run-as-root --oversubscribe --bind-to none)
  endif()
  set(KOKOMOE_MPIEXEC_FLAGS "${flags}" CACHE STRING "Flags that the tests give mpiexec")
  set(${result} ${KOKOMOE_MPIEXEC_FLAGS} PARENT_SCOPE)
endfunction()

# What the crash tests preload into the program; sanitizers want to be the first to load.
function(kokomoe_crash_library)
  if(KOKOMOE_SANITIZE OR NOT CMAKE_SYSTEM_NAME STREQUAL "Linux" OR NOT TARGET kokomoe)
    return()
  endif()
  add_library(kokomoe_kill_at MODULE "${PROJECT_SOURCE_DIR}/tests/crash/kill_at.cpp")
  target_link_libraries(kokomoe_kill_at PRIVATE ${CMAKE_DL_LIBS})
  target_compile_features(kokomoe_kill_at PRIVATE cxx_std_20)
  set_target_properties(kokomoe_kill_at PROPERTIES
    LIBRARY_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/tests")
  target_compile_options(kokomoe_kill_at PRIVATE ${kokomoe_compile_options})
  if(CMAKE_CXX_COMPILER MATCHES "/nvcc_wrapper$")
    target_compile_options(kokomoe_kill_at PRIVATE --host-only)
  endif()
endfunction()

# A script tests/regression/NAME.sh or NAME.py is the test NAME. A line "# labels: slow" adds labels,
# "# timeout: 900" sets seconds. It finds in its environment: KOKOMOE_PROGRAM, KOKOMOE_SOURCE_DIR,
# KOKOMOE_BINARY_DIR, KOKOMOE_MPIEXEC (with its flags; empty without MPI), KOKOMOE_KILL_LIBRARY
# (tests/crash; may be empty), and starts in an empty folder of its own.
function(kokomoe_regression_tests)
  file(GLOB scripts CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/regression/*.sh"
       "${PROJECT_SOURCE_DIR}/tests/regression/*.py")
  set(mpiexec)
  if(KOKOMOE_HAVE_MPI)
    kokomoe_mpiexec_flags(flags)
    string(JOIN " " mpiexec "${MPIEXEC_EXECUTABLE}" ${flags})
  endif()
  set(kill_library)
  if(TARGET kokomoe_kill_at)
    set(kill_library "$<TARGET_FILE:kokomoe_kill_at>")
  endif()
  foreach(script ${scripts})
    get_filename_component(name "${script}" NAME_WE)
    get_filename_component(extension "${script}" LAST_EXT)
    if(name MATCHES "^_" OR NOT TARGET kokomoe)
      continue() # a file that the scripts share
    endif()
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${script}")
    file(STRINGS "${script}" labels REGEX "^# labels: ")
    string(REGEX REPLACE "^# labels: *" "" labels "${labels}")
    separate_arguments(labels)
    file(STRINGS "${script}" timeout REGEX "^# timeout: ")
    string(REGEX REPLACE "^# timeout: *" "" timeout "${timeout}")
    if(NOT timeout)
      set(timeout 600)
    endif()
    if(extension STREQUAL ".py")
      set(interpreter "${KOKOMOE_PYTHON_PROGRAM}")
    else()
      set(interpreter bash)
    endif()
    set(folder "${PROJECT_BINARY_DIR}/tests/regression/${name}")
    add_test(NAME ${name} COMMAND ${CMAKE_COMMAND} "-DFOLDER=${folder}"
      "-DINTERPRETER=${interpreter}" "-DSCRIPT=${script}"
      -P "${PROJECT_SOURCE_DIR}/cmake/run_in_empty_folder.cmake")
    kokomoe_set_test(${name} LABELS regression ${labels} TIMEOUT ${timeout}
      ENVIRONMENT ${kokomoe_two_threads} ${kokomoe_mpi_environment}
      "KOKOMOE_PROGRAM=$<TARGET_FILE:kokomoe>" "KOKOMOE_SOURCE_DIR=${PROJECT_SOURCE_DIR}"
      "KOKOMOE_BINARY_DIR=${PROJECT_BINARY_DIR}" "KOKOMOE_MPIEXEC=${mpiexec}"
      "KOKOMOE_PYTHON=${KOKOMOE_PYTHON_PROGRAM}" "KOKOMOE_KILL_LIBRARY=${kill_library}")
  endforeach()
endfunction()

function(kokomoe_check_tests)
  add_test(NAME include_floors COMMAND ${KOKOMOE_PYTHON_PROGRAM}
    "${PROJECT_SOURCE_DIR}/tests/checks/include_floors.py" "${PROJECT_SOURCE_DIR}")
  kokomoe_set_test(include_floors LABELS check)

  add_test(NAME header_check COMMAND ${KOKOMOE_PYTHON_PROGRAM}
    "${PROJECT_SOURCE_DIR}/tests/checks/header_check.py" "${PROJECT_SOURCE_DIR}"
    "${PROJECT_BINARY_DIR}")
  kokomoe_set_test(header_check LABELS check)

  if(Kokkos_ENABLE_CUDA AND TARGET kokomoe_moe)
    add_test(NAME launch_arguments COMMAND bash
      "${PROJECT_SOURCE_DIR}/tests/checks/launch_arguments.sh" "${PROJECT_BINARY_DIR}")
    kokomoe_set_test(launch_arguments LABELS check)
  endif()
endfunction()

function(kokomoe_install_tests)
  set(script "${PROJECT_SOURCE_DIR}/tests/install/run.sh")
  if(NOT TARGET kokomoe_moe OR KOKOMOE_SANITIZE)
    return()
  endif()
  add_test(NAME install COMMAND bash "${script}" "${PROJECT_BINARY_DIR}"
    "${PROJECT_BINARY_DIR}/tests/install" "${CMAKE_COMMAND}" "${CMAKE_CXX_COMPILER}")
  kokomoe_set_test(install LABELS install ENVIRONMENT ${kokomoe_two_threads})
  # Without MPI and HDF5 the library is configured and compiled anew.
  add_test(NAME install_minimal COMMAND bash "${script}" --minimal "${PROJECT_BINARY_DIR}"
    "${PROJECT_BINARY_DIR}/tests/install_minimal" "${CMAKE_COMMAND}" "${CMAKE_CXX_COMPILER}")
  kokomoe_set_test(install_minimal LABELS install slow TIMEOUT 1500
    ENVIRONMENT ${kokomoe_two_threads})
endfunction()
