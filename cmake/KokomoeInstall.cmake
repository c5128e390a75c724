# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

include(CMakePackageConfigHelpers)

get_property(KOKOMOE_COMPONENTS GLOBAL PROPERTY KOKOMOE_COMPONENTS)
set(kokomoe_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/Kokomoe")

list(TRANSFORM KOKOMOE_COMPONENTS PREPEND kokomoe_ OUTPUT_VARIABLE targets)
install(TARGETS ${targets} EXPORT KokomoeTargets
  ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}"
  LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}"
  RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
install(EXPORT KokomoeTargets NAMESPACE Kokomoe:: DESTINATION "${kokomoe_package_dir}")
# The headers of components that this build leaves out would name what is not there.
foreach(component ${KOKOMOE_COMPONENTS})
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/kokomoe/${component}"
    DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/kokomoe" FILES_MATCHING PATTERN "*.hpp")
endforeach()
install(FILES "${PROJECT_BINARY_DIR}/include/kokomoe/config.hpp"
  DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/kokomoe")

configure_package_config_file(
  "${PROJECT_SOURCE_DIR}/cmake/KokomoeConfig.cmake.in" "${PROJECT_BINARY_DIR}/KokomoeConfig.cmake"
  INSTALL_DESTINATION "${kokomoe_package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/KokomoeConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES
  "${PROJECT_BINARY_DIR}/KokomoeConfig.cmake" "${PROJECT_BINARY_DIR}/KokomoeConfigVersion.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/FindRandom123.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/FindSentencePiece.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/KokomoeHDF5.cmake"
  DESTINATION "${kokomoe_package_dir}")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}")
