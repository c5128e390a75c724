// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Catch2 2 and 3 under one roof. KOKOMOE_CATCH2_MAJOR comes from CMake.
#if KOKOMOE_CATCH2_MAJOR >= 3
#include <catch2/catch_approx.hpp>
#include <catch2/catch_message.hpp>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include <string>

namespace kokomoe::test {

#if KOKOMOE_CATCH2_MAJOR >= 3
using Approx = Catch::Approx;
#else
using Approx = Catch::Detail::Approx;
#endif

/// Matcher: the text holds `part`.
inline auto contains(const std::string& part) {
#if KOKOMOE_CATCH2_MAJOR >= 3
  return Catch::Matchers::ContainsSubstring(part);
#else
  return Catch::Matchers::Contains(part);
#endif
}

/// What `work` throws as Exception, or "" (and a failed check) when it does not.
template <class Exception, class Work>
std::string message_of(const Work& work) {
  try {
    work();
  } catch (const Exception& error) {
    return error.what();
  }
  FAIL_CHECK("nothing was thrown");
  return "";
}

}  // namespace kokomoe::test
