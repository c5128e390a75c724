// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

#include <Kokkos_Core.hpp>
#include <cstdio>
#include <cstring>

#include "kokomoe/config.hpp"

int main(int argc, char** argv) {
  Kokkos::ScopeGuard guard(argc, argv);
  std::printf("kokomoe %s on %s\n", kokomoe::version(), Kokkos::DefaultExecutionSpace::name());
  return std::strcmp(kokomoe::version(), KOKOMOE_VERSION) == 0 ? 0 : 1;
}
