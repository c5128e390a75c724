# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Run at build time with -P: writes OUTPUT from INPUT; a file that stays the same keeps its time, so
# that a commit recompiles one file and a build without news none.
set(KOKOMOE_GIT_DESCRIBE unknown)
find_program(git_program git)
if(git_program)
  execute_process(
    COMMAND ${git_program} -C "${SOURCE_DIR}" describe --always --dirty --tags
    OUTPUT_VARIABLE describe RESULT_VARIABLE result ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(result EQUAL 0)
    set(KOKOMOE_GIT_DESCRIBE "${describe}")
  endif()
endif()
configure_file("${INPUT}" "${OUTPUT}" @ONLY)
