// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/gemm.hpp"
#include "support/catch.hpp"
#include "support/host_arrays.hpp"

#include <limits>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

struct Extents {
  std::size_t m, n, k;
};

/// gemm against three loops in double; C starts at `start`.
template <class T>
double gemm_error(const Extents& x, bool ta, bool tb, T alpha, T beta, T start) {
  Draw draw(x.m + 10 * x.n + 100 * x.k);
  const auto a = draw.many<T>(x.m * x.k), b = draw.many<T>(x.k * x.n);
  std::vector<double> expected(x.m * x.n, 0);
  for (std::size_t i = 0; i < x.m; ++i)
    for (std::size_t j = 0; j < x.n; ++j) {
      double sum = 0;
      for (std::size_t l = 0; l < x.k; ++l)
        sum += static_cast<double>(a[ta ? l * x.m + i : i * x.k + l]) *
               static_cast<double>(b[tb ? j * x.k + l : l * x.n + j]);
      expected[i * x.n + j] = static_cast<double>(alpha) * sum;
      if (beta != T(0)) expected[i * x.n + j] += static_cast<double>(beta * start);
    }
  const auto da = ta ? device_matrix(x.k, x.m, a) : device_matrix(x.m, x.k, a);
  const auto db = tb ? device_matrix(x.n, x.k, b) : device_matrix(x.k, x.n, b);
  const auto c = device_matrix(x.m, x.n, std::vector<T>(x.m * x.n, start));
  gemm<T>(ExecutionSpace(), ta ? Transpose::yes : Transpose::no,
          tb ? Transpose::yes : Transpose::no, alpha, da, db, beta, c);
  return worst_error(on_host(c), expected, 1.0);
}

}  // namespace

TEMPLATE_TEST_CASE("gemm is three loops, for every transpose and extent", "[gemm]", float, double) {
  using T = TestType;
  const double tolerance = 30 * static_cast<double>(std::numeric_limits<T>::epsilon());
  const Extents extents[] = {{1, 1, 1}, {1, 7, 5},    {6, 1, 9},   {7, 5, 1},
                             {5, 4, 3}, {33, 17, 65}, {2, 3, 300}, {64, 64, 64}};
  for (const Extents& x : extents)
    for (const bool ta : {false, true})
      for (const bool tb : {false, true}) {
        CAPTURE(x.m, x.n, x.k, ta, tb);
        CHECK(gemm_error<T>(x, ta, tb, T(1), T(0), T(3)) < tolerance);
        CHECK(gemm_error<T>(x, ta, tb, T(1), T(1), T(3)) < tolerance);
        CHECK(gemm_error<T>(x, ta, tb, T(-2), T(0.5), T(3)) < tolerance);
      }
}

TEMPLATE_TEST_CASE("with beta 0 gemm never reads what was there", "[gemm]", float, double) {
  const TestType nan = std::numeric_limits<TestType>::quiet_NaN();
  for (const Extents& x : {Extents{5, 4, 3}, Extents{2, 3, 3000}, Extents{4, 5, 0}})
    for (const bool ta : {false, true})
      for (const bool tb : {false, true}) {
        CAPTURE(x.m, x.n, x.k, ta, tb);
        CHECK(gemm_error<TestType>(x, ta, tb, 1, 0, nan) < 1e-4);
      }
}

TEMPLATE_TEST_CASE("gemm takes empty extents", "[gemm]", float, double) {
  for (const bool ta : {false, true})
    for (const bool tb : {false, true}) {
      CHECK(gemm_error<TestType>({0, 4, 3}, ta, tb, 1, 0, 2) == 0);
      CHECK(gemm_error<TestType>({4, 0, 3}, ta, tb, 1, 0, 2) == 0);
      // An empty sum is zero, added to beta C.
      CHECK(gemm_error<TestType>({3, 4, 0}, ta, tb, 1, 0, 2) == 0);
      CHECK(gemm_error<TestType>({3, 4, 0}, ta, tb, 1, 1, 2) == 0);
      CHECK(gemm_error<TestType>({3, 4, 0}, ta, tb, 1, TestType(0.5), 2) == 0);
      CHECK(gemm_error<TestType>({0, 0, 0}, ta, tb, 1, 0, 2) == 0);
    }
}

TEST_CASE("gemm refuses shapes that do not fit and names them", "[gemm]") {
  const Matrix<double> a("a", 3, 4), b("b", 4, 5), c("c", 3, 6), wrong("wrong", 7, 5);
  const auto run = [&](const Matrix<const double>& right, const Matrix<double>& out) {
    gemm<double>(ExecutionSpace(), Transpose::no, Transpose::no, 1, a, right, 0, out);
  };
  const std::string text = message_of<Error>([&] { run(b, c); });
  CHECK_THAT(text, contains("(3, 4)") && contains("(4, 5)") && contains("(3, 6)"));
  CHECK_THAT(message_of<Error>([&] { run(wrong, c); }), contains("(7, 5)"));
}

TEST_CASE("the banner names a GEMM library", "[gemm]") {
  CHECK(!gemm_library().empty());
}
