// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <unistd.h>

namespace kokomoe::test {

/// Permissions hold for root too: for the scope it is nobody.
class Unprivileged {
 public:
  Unprivileged() : changed_(::geteuid() == 0 && ::seteuid(65534) == 0) {}
  ~Unprivileged() {
    if (changed_ && ::seteuid(0) != 0) ::_exit(1);
  }
  Unprivileged(const Unprivileged&) = delete;
  Unprivileged& operator=(const Unprivileged&) = delete;

  /// False where root cannot become another user.
  bool holds() const { return ::geteuid() != 0; }

 private:
  bool changed_;
};

}  // namespace kokomoe::test
