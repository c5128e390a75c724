# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# kokomoe_component(NAME [SOURCES ...] [COMPONENTS ...] [PUBLIC ...] [PRIVATE ...])
# One library, kokomoe_NAME with alias Kokomoe::NAME, from src/NAME/**/*.cpp. A component whose folder
# holds no source yet is left out.
function(kokomoe_component name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;COMPONENTS;PUBLIC;PRIVATE")
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.cpp")
  list(APPEND sources ${arg_SOURCES})
  if(NOT sources)
    message(STATUS "Kokomoe::${name} has no sources")
    return()
  endif()
  set(target kokomoe_${name})
  add_library(${target} ${sources})
  add_library(Kokomoe::${name} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name} VERSION ${PROJECT_VERSION}
    SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
  target_include_directories(${target}
    PUBLIC "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>"
           "$<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/include>"
           "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>"
    PRIVATE "${PROJECT_SOURCE_DIR}/src")
  foreach(component ${arg_COMPONENTS})
    if(TARGET kokomoe_${component})
      target_link_libraries(${target} PUBLIC kokomoe_${component})
    endif()
  endforeach()
  target_link_libraries(${target} PUBLIC ${arg_PUBLIC} PRIVATE ${arg_PRIVATE})
  kokomoe_apply_flags(${target})
  set_property(GLOBAL APPEND PROPERTY KOKOMOE_COMPONENTS ${name})
endfunction()
