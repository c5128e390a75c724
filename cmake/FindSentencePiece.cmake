# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Processor and trainer; target SentencePiece::SentencePiece.
find_path(SentencePiece_INCLUDE_DIR sentencepiece_processor.h)
find_library(SentencePiece_LIBRARY sentencepiece)
find_library(SentencePiece_TRAIN_LIBRARY sentencepiece_train)
set(kokomoe_sentencepiece_headers SentencePiece_INCLUDE_DIR)
# From 0.2.1 on its header may include Abseil's, which Debian's package does not bring along.
if(SentencePiece_INCLUDE_DIR)
  file(STRINGS "${SentencePiece_INCLUDE_DIR}/sentencepiece_processor.h" kokomoe_sentencepiece_absl
       REGEX "include .absl/strings/string_view.h")
  if(kokomoe_sentencepiece_absl)
    find_path(SentencePiece_absl_INCLUDE_DIR absl/strings/string_view.h)
    mark_as_advanced(SentencePiece_absl_INCLUDE_DIR)
    list(APPEND kokomoe_sentencepiece_headers SentencePiece_absl_INCLUDE_DIR)
  endif()
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(SentencePiece REQUIRED_VARS
  SentencePiece_LIBRARY SentencePiece_TRAIN_LIBRARY ${kokomoe_sentencepiece_headers})
mark_as_advanced(SentencePiece_INCLUDE_DIR SentencePiece_LIBRARY SentencePiece_TRAIN_LIBRARY)
if(SentencePiece_FOUND AND NOT TARGET SentencePiece::SentencePiece)
  add_library(SentencePiece::SentencePiece INTERFACE IMPORTED)
  set_target_properties(SentencePiece::SentencePiece PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES
    "${SentencePiece_INCLUDE_DIR};$<$<BOOL:${SentencePiece_absl_INCLUDE_DIR}>:${SentencePiece_absl_INCLUDE_DIR}>"
    INTERFACE_LINK_LIBRARIES "${SentencePiece_TRAIN_LIBRARY};${SentencePiece_LIBRARY}")
endif()
