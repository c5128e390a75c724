// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/column_sum.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/stable_sort.hpp"
#include "support/catch.hpp"
#include "support/host_arrays.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// stable_sort's offsets and used order, against std::stable_sort.
void check_sort(const std::vector<int>& key, int buckets) {
  Arena scratch("kokomoe::test::scratch");
  const Vector<int> offsets("offsets", static_cast<std::size_t>(buckets) + 1);
  const Vector<int> order("order", key.size());
  Kokkos::deep_copy(offsets, -7);
  Kokkos::deep_copy(order, -7);
  stable_sort(ExecutionSpace(), scratch, device_vector(key), buckets, offsets, order);
  Kokkos::fence();

  std::vector<int> expected;
  for (std::size_t i = 0; i < key.size(); ++i)
    if (key[i] >= 0 && key[i] < buckets) expected.push_back(static_cast<int>(i));
  std::stable_sort(expected.begin(), expected.end(), [&](int a, int b) {
    return key[static_cast<std::size_t>(a)] < key[static_cast<std::size_t>(b)];
  });
  std::vector<int> starts{0};
  for (int e = 0; e < buckets; ++e)
    starts.push_back(starts.back() + static_cast<int>(std::count(key.begin(), key.end(), e)));
  CAPTURE(key.size(), buckets);
  CHECK(on_host(offsets) == starts);
  std::vector<int> result = on_host(order);
  REQUIRE(result.size() >= expected.size());
  result.resize(expected.size());
  CHECK(result == expected);
  CHECK(scratch.mark().used == 0);
}

std::vector<int> random_keys(std::size_t count, int from, int to, std::uint64_t seed) {
  Draw draw(seed);
  std::vector<int> key(count);
  for (int& k : key)
    k = std::min(to - 1, from + static_cast<int>(0.5 * (draw() + 1) * (to - from)));
  return key;
}

}  // namespace

TEST_CASE("the sort is std::stable_sort's", "[sort]") {
  for (const std::size_t count : {1u, 2u, 255u, 256u, 257u, 1000u, 5000u})
    for (const int buckets : {1, 2, 3, 16, 600})
      check_sort(random_keys(count, 0, buckets, count), buckets);
}

TEST_CASE("keys outside the buckets are left out", "[sort]") {
  check_sort(random_keys(3000, -2, 7, 1), 4);
  check_sort(std::vector<int>(700, 4), 4);
  check_sort(std::vector<int>(700, -1), 4);
}

TEST_CASE("degenerate keys sort", "[sort]") {
  check_sort({}, 3);
  check_sort({}, 0);
  check_sort({0, 1}, 0);
  check_sort(std::vector<int>(1000, 2), 5);
  std::vector<int> descending(1000);
  std::iota(descending.rbegin(), descending.rend(), 0);
  check_sort(descending, 1000);
}

TEMPLATE_TEST_CASE("column sums are the naive ones, weighted, multiplied and added", "[sum]", float,
                   double) {
  using T = TestType;
  Arena scratch("kokomoe::test::scratch");
  const double tolerance = 20 * static_cast<double>(std::numeric_limits<T>::epsilon());
  for (const std::size_t rows : {0u, 1u, 127u, 128u, 129u, 700u})
    for (const std::size_t columns : {1u, 5u, 64u})
      for (int form = 0; form < 8; ++form) {
        const bool product = (form & 1) != 0, weighted = (form & 2) != 0;
        const T beta = (form & 4) != 0 ? T(-0.5) : T(0);
        Draw draw(rows + columns);
        const auto a = draw.many<T>(rows * columns), b = draw.many<T>(rows * columns),
                   w = draw.many<T>(rows);
        const T start = beta == T(0) ? std::numeric_limits<T>::quiet_NaN() : T(4);
        const auto out = device_vector(std::vector<T>(columns, start));
        column_sum<T>(ExecutionSpace(), scratch, device_matrix(rows, columns, a),
                      product ? device_matrix(rows, columns, b) : Matrix<T>(),
                      weighted ? device_vector(w) : Vector<T>(), beta, out);
        std::vector<double> expected(columns, beta == T(0) ? 0 : static_cast<double>(beta * start));
        for (std::size_t r = 0; r < rows; ++r)
          for (std::size_t c = 0; c < columns; ++c)
            expected[c] += (weighted ? static_cast<double>(w[r]) : 1.0) *
                           static_cast<double>(a[r * columns + c]) *
                           (product ? static_cast<double>(b[r * columns + c]) : 1.0);
        CAPTURE(rows, columns, form);
        CHECK(worst_error(on_host(out), expected, 1.0) < tolerance);
      }
}

TEST_CASE("column_sum refuses shapes that do not fit", "[sum]") {
  Arena scratch("kokomoe::test::scratch");
  const Matrix<float> a("a", 4, 3), b("b", 4, 2);
  const Vector<float> out("out", 3), short_out("short_out", 2);
  CHECK_THAT(message_of<Error>([&] {
               column_sum<float>(ExecutionSpace(), scratch, a, b, Vector<float>(), 0, out);
             }),
             contains("(4, 2)") && contains("(4, 3)"));
  CHECK_THROWS_AS(column_sum<float>(ExecutionSpace(), scratch, a, Matrix<float>(), Vector<float>(),
                                    0, short_out),
                  Error);
}
