// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "fuzz/targets.hpp"

// libFuzzer brings main.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  kokomoe::fuzz::KOKOMOE_FUZZ_TARGET(data, size);
  return 0;
}
