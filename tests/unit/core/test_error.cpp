// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/types.hpp"
#include "support/catch.hpp"

#include <string>
#include <vector>

using namespace kokomoe;
using namespace kokomoe::test;

TEST_CASE("a shape error names who, what and both shapes", "[error]") {
  const Matrix<float> view("view", 3, 4);
  CHECK_NOTHROW(require_shape("somewhere", "x", view, 3, 4));
  const std::string text = message_of<Error>([&] { require_shape("somewhere", "x", view, 3, 5); });
  CHECK(text == "somewhere: x has shape (3, 4), expected (3, 5)");
  CHECK_THROWS_AS(require_shape("somewhere", "x", view, 2, 4), Error);
}

TEST_CASE("errors say where", "[error]") {
  CHECK(message_of<Error>([] { fail("gemm", "no"); }) == "gemm: no");
}

TEST_CASE("edit distance is Levenshtein's", "[error]") {
  CHECK(edit_distance("", "") == 0);
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("kitten", "sitting") == 3);
  CHECK(edit_distance("flaw", "lawn") == 2);
}

TEST_CASE("the nearest name is found, a far one is not", "[error]") {
  const std::vector<std::string> names = {"sparsemixer", "switch", "top_k", "dense_mixture"};
  CHECK(nearest_name("sparcemixer", names) == "sparsemixer");
  CHECK(nearest_name("topk", names) == "top_k");
  CHECK(nearest_name("swich", names) == "switch");
  CHECK(nearest_name("xyzzy_plugh_quux", names).empty());
  CHECK(nearest_name("a", std::vector<std::string>{}).empty());
}
