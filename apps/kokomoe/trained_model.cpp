// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "trained_model.hpp"

#include <cstdio>

namespace kokomoe::app {

namespace {

/// "\x1b" and the like.
std::string control_escape(char c) {
  char text[8];
  std::snprintf(text, sizeof text, "\\x%02x", static_cast<unsigned>(static_cast<unsigned char>(c)));
  return text;
}

}  // namespace

std::string escaped(const std::string& text) {
  std::string line;
  for (const char c : text) {
    if (c == '\n')
      line += "\\n";
    else if (c == '\r')
      line += "\\r";
    else if (c != '\t' && (static_cast<unsigned char>(c) < 0x20 || c == 0x7f))
      line += control_escape(c);
    else
      line += c;
  }
  return line;
}

}  // namespace kokomoe::app
