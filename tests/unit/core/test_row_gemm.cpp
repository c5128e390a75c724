// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/row_gemm.hpp"

#include "kokomoe/core/error.hpp"
#include "support/catch.hpp"
#include "support/host_arrays.hpp"

#include <cstring>
#include <limits>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

struct Extents {
  std::size_t m, n, k;
};

template <class T>
std::vector<T> run(const Extents& x, bool transposed, const std::vector<T>& a,
                   const std::vector<T>& b, bool accumulate = false, T start = T(0),
                   const ExecutionSpace& space = ExecutionSpace()) {
  Arena scratch("kokomoe::test::scratch");
  const Matrix<T> c = device_matrix(x.m, x.n, std::vector<T>(x.m * x.n, start));
  row_gemm<T>(space, scratch, transposed ? Transpose::yes : Transpose::no,
              device_matrix(x.m, x.k, a),
              transposed ? device_matrix(x.n, x.k, b) : device_matrix(x.k, x.n, b), accumulate, c);
  Kokkos::fence();
  CHECK(scratch.mark().used == 0);
  return on_host(c);
}

const Extents shapes[] = {{1, 1, 1},    {1, 7, 5},      {9, 1, 9},    {7, 33, 1},   {64, 64, 64},
                          {65, 31, 17}, {130, 96, 128}, {3, 257, 40}, {200, 5, 300}};

}  // namespace

TEMPLATE_TEST_CASE("row_gemm gives what a BLAS gives", "[row_gemm]", float, double) {
  using T = TestType;
  for (const Extents& x : shapes)
    for (const bool transposed : {false, true})
      for (const bool accumulate : {false, true}) {
        Draw draw(x.m + x.n);
        const auto a = draw.many<T>(x.m * x.k), b = draw.many<T>(x.k * x.n);
        const T start = accumulate ? T(3) : std::numeric_limits<T>::quiet_NaN();
        const Matrix<T> expected = device_matrix(x.m, x.n, std::vector<T>(x.m * x.n, start));
        gemm<T>(ExecutionSpace(), Transpose::no, transposed ? Transpose::yes : Transpose::no, T(1),
                device_matrix(x.m, x.k, a),
                transposed ? device_matrix(x.n, x.k, b) : device_matrix(x.k, x.n, b),
                accumulate ? T(1) : T(0), expected);
        Kokkos::fence();
        CAPTURE(x.m, x.n, x.k, transposed, accumulate);
        CHECK(worst_error(run<T>(x, transposed, a, b, accumulate, start), on_host(expected), 1.0) <
              (sizeof(T) == 4 ? 1e-5 : 1e-12));
      }
}

TEMPLATE_TEST_CASE("a row's bits do not depend on the other rows", "[row_gemm]", float, double) {
  using T = TestType;
  for (const Extents& x : shapes)
    for (const bool transposed : {false, true}) {
      Draw draw(x.k);
      const auto a = draw.many<T>(x.m * x.k), b = draw.many<T>(x.k * x.n);
      const auto whole = run<T>(x, transposed, a, b);
      CAPTURE(x.m, x.n, x.k, transposed);
      // Reversed, and every run of rows that begins at some row.
      for (std::size_t first = 0; first < x.m; first += 1 + x.m / 5) {
        const std::size_t count = x.m - first;
        std::vector<T> some(count * x.k);
        for (std::size_t r = 0; r < count; ++r)
          std::copy_n(a.begin() + static_cast<std::ptrdiff_t>((x.m - 1 - r) * x.k), x.k,
                      some.begin() + static_cast<std::ptrdiff_t>(r * x.k));
        const auto part = run<T>({count, x.n, x.k}, transposed, some, b);
        std::size_t wrong = 0;
        for (std::size_t r = 0; r < count; ++r)
          wrong += std::memcmp(&part[r * x.n], &whole[(x.m - 1 - r) * x.n], x.n * sizeof(T)) != 0;
        CHECK(wrong == 0);
      }
    }
}

TEST_CASE("bits of row_gemm do not depend on the number of threads", "[row_gemm]") {
  const int threads = ExecutionSpace().concurrency();
  if (threads < 2) return;
  const auto parts = Kokkos::Experimental::partition_space(ExecutionSpace(), 1, threads - 1);
  if (parts[0].concurrency() == threads) return;  // this backend does not part its threads
  const Extents x{300, 130, 77};
  Draw draw(4);
  const auto a = draw.many<float>(x.m * x.k), b = draw.many<float>(x.k * x.n);
  CHECK(run<float>(x, true, a, b) == run<float>(x, true, a, b, false, 0.0f, parts[0]));
}

TEST_CASE("row_gemm takes empty extents", "[row_gemm]") {
  for (const bool transposed : {false, true}) {
    CHECK(run<float>({0, 4, 3}, transposed, {}, std::vector<float>(12, 1)).empty());
    CHECK(run<float>({4, 0, 3}, transposed, std::vector<float>(12, 1), {}).empty());
    CHECK(run<float>({2, 2, 0}, transposed, {}, {}, false, 7) == std::vector<float>(4, 0));
    CHECK(run<float>({2, 2, 0}, transposed, {}, {}, true, 7) == std::vector<float>(4, 7));
  }
}

TEST_CASE("row_gemm refuses shapes that do not fit and names them", "[row_gemm]") {
  Arena scratch("kokomoe::test::scratch");
  const Matrix<double> a("a", 3, 4), b("b", 5, 6), c("c", 3, 6);
  CHECK_THAT(message_of<Error>([&] {
               row_gemm<double>(ExecutionSpace(), scratch, Transpose::no, a, b, false, c);
             }),
             contains("(3, 4)") && contains("(5, 6)") && contains("(3, 6)"));
}
