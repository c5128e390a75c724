# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Target Kokomoe::hdf5, the C library, from the variables that FindHDF5 sets: its own targets have
# had other names from version to version. Read by the exported package too.
# HDF5 versions with CMake packages of their own (2.x) are found by FindHDF5 as well.
if(NOT TARGET Kokomoe::hdf5)
  find_package(HDF5 QUIET COMPONENTS C)
  if(HDF5_FOUND)
    add_library(Kokomoe::hdf5 INTERFACE IMPORTED)
    set(kokomoe_hdf5_libraries ${HDF5_C_LIBRARIES})
    if(NOT kokomoe_hdf5_libraries)
      set(kokomoe_hdf5_libraries ${HDF5_LIBRARIES})
    endif()
    set(kokomoe_hdf5_includes ${HDF5_C_INCLUDE_DIRS})
    if(NOT kokomoe_hdf5_includes)
      set(kokomoe_hdf5_includes ${HDF5_INCLUDE_DIRS})
    endif()
    set_target_properties(Kokomoe::hdf5 PROPERTIES
      INTERFACE_LINK_LIBRARIES "${kokomoe_hdf5_libraries}"
      INTERFACE_INCLUDE_DIRECTORIES "${kokomoe_hdf5_includes}")
    # The headers of a parallel HDF5 include mpi.h, whether Kokomoe uses MPI or not.
    if(HDF5_IS_PARALLEL)
      find_package(MPI QUIET COMPONENTS C)
      if(TARGET MPI::MPI_C)
        target_link_libraries(Kokomoe::hdf5 INTERFACE MPI::MPI_C)
      endif()
    endif()
  endif()
endif()
