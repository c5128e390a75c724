// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace kokomoe {

/// What of a text file is its text.
enum class TextForm {
  bytes,  ///< every byte
  lines,  ///< lines that end with "\n" or "\r\n", behind a UTF-8 byte order mark or none
};

}  // namespace kokomoe
