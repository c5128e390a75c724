# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause

# Run with -P: starts INTERPRETER SCRIPT in FOLDER, emptied first.
file(REMOVE_RECURSE "${FOLDER}")
file(MAKE_DIRECTORY "${FOLDER}")
execute_process(COMMAND "${INTERPRETER}" "${SCRIPT}" WORKING_DIRECTORY "${FOLDER}"
                RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${SCRIPT} ended with ${result}")
endif()
