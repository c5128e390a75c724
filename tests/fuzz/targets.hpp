// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

/// One function for each reader of files from outside. libFuzzer calls them with what it makes up,
/// the test fuzz_corpus with what is kept in corpus/. See docs/fuzzing.md.
namespace kokomoe::fuzz {

void deck(const std::uint8_t* data, std::size_t size);
void manifest(const std::uint8_t* data, std::size_t size);
void state(const std::uint8_t* data, std::size_t size);

/// A reader broke its word: what libFuzzer keeps the input for.
[[noreturn]] inline void broken(const std::string& what) {
  std::fprintf(stderr, "broken promise: %s\n", what.c_str());
  std::abort();
}

inline void require(bool holds, const std::string& what) {
  if (!holds) broken(what);
}

}  // namespace kokomoe::fuzz
