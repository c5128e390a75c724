# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Processor and trainer; target SentencePiece::SentencePiece.
find_path(SentencePiece_INCLUDE_DIR sentencepiece_processor.h)
find_library(SentencePiece_LIBRARY sentencepiece)
find_library(SentencePiece_TRAIN_LIBRARY sentencepiece_train)
set(SentencePiece_needs SentencePiece_LIBRARY SentencePiece_TRAIN_LIBRARY
    SentencePiece_INCLUDE_DIR)
# Newer versions may use Abseil in their header, and so in their callers. Debian's package does not
# bring it along: libabsl-dev.
set(SentencePiece_absl)
if(SentencePiece_INCLUDE_DIR)
  file(STRINGS "${SentencePiece_INCLUDE_DIR}/sentencepiece_processor.h" SentencePiece_absl
       REGEX "include .absl/strings/string_view.h")
  if(SentencePiece_absl)
    find_package(absl CONFIG QUIET)
    list(APPEND SentencePiece_needs absl_FOUND)
  endif()
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(SentencePiece REQUIRED_VARS ${SentencePiece_needs})
mark_as_advanced(SentencePiece_INCLUDE_DIR SentencePiece_LIBRARY SentencePiece_TRAIN_LIBRARY)
if(SentencePiece_FOUND AND NOT TARGET SentencePiece::SentencePiece)
  add_library(SentencePiece::SentencePiece INTERFACE IMPORTED)
  set_target_properties(SentencePiece::SentencePiece PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${SentencePiece_INCLUDE_DIR}"
    INTERFACE_LINK_LIBRARIES "${SentencePiece_TRAIN_LIBRARY};${SentencePiece_LIBRARY}")
  if(SentencePiece_absl)
    target_link_libraries(SentencePiece::SentencePiece INTERFACE absl::status absl::string_view)
  endif()
endif()
