// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/grouped_gemm.hpp"
#include "moe/grouped_teams.hpp"
#include "support/catch.hpp"
#include "support/host_arrays.hpp"

#include <limits>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

std::size_t at(const std::vector<int>& offsets, std::size_t g) {
  return static_cast<std::size_t>(offsets[g]);
}

const std::vector<std::vector<int>> group_offsets = {
    {0, 5},       {0, 0},          {0, 3, 3, 10, 11}, {0, 0, 0, 7},
    {0, 7, 7, 7}, {0, 1, 2, 3, 4}, {0, 40, 41, 200},  {}};

/// More groups than a launch of the devices' kernels takes, some without rows.
std::vector<int> many_groups() {
  std::vector<int> offsets{0};
  for (int g = 0; g < 300; ++g) offsets.push_back(offsets.back() + g % 4);
  return offsets;
}

std::vector<std::vector<int>> all_offsets() {
  std::vector<std::vector<int>> all = group_offsets;
  all.back() = many_groups();
  return all;
}

}  // namespace

TEMPLATE_TEST_CASE("a grouped GEMM multiplies each group by its own block", "[grouped_gemm]", float,
                   double) {
  using T = TestType;
  // Within a tile of the devices' kernels, and over several.
  const auto [n, k] = GENERATE(table<std::size_t, std::size_t>({{6, 9}, {70, 37}}));
  const double tolerance = 30 * static_cast<double>(std::numeric_limits<T>::epsilon());
  // The kernels of this build, then those of devices with teams of one and two threads.
  const int threads = GENERATE(0, 1, 2);
  if (threads > ExecutionSpace().concurrency()) return;
  for (const auto& offsets : all_offsets())
    for (const bool transposed : {false, true})
      for (const T beta : {T(0), T(1)}) {
        CAPTURE(offsets, transposed, beta, threads);
        const std::size_t groups = offsets.size() - 1, rows = at(offsets, groups);
        const auto a = Draw(1).many<T>(rows * k), b = Draw(2).many<T>(groups * k * n);
        const T start = beta == T(0) ? std::numeric_limits<T>::quiet_NaN() : T(2);
        const auto c = device_matrix(rows, n, std::vector<T>(rows * n, start));
        const Transpose how = transposed ? Transpose::yes : Transpose::no;
        const Matrix<const T> left = device_matrix(rows, k, a);
        const Matrix<const T> right =
            transposed ? device_matrix(groups * n, k, b) : device_matrix(groups * k, n, b);
        if (threads == 0)
          grouped_gemm<T>(ExecutionSpace(), how, left, right, beta, c, offsets);
        else
          detail::grouped_gemm_teams<T>(ExecutionSpace(), how, left, right, beta, c, offsets,
                                        threads);
        std::vector<double> expected(rows * n, beta == T(0) ? 0 : 2);
        for (std::size_t g = 0; g < groups; ++g)
          for (std::size_t r = at(offsets, g); r < at(offsets, g + 1); ++r)
            for (std::size_t j = 0; j < n; ++j)
              for (std::size_t l = 0; l < k; ++l)
                expected[r * n + j] +=
                    static_cast<double>(a[r * k + l]) *
                    static_cast<double>(b[g * k * n + (transposed ? j * k + l : l * n + j)]);
        CHECK(worst_error(on_host(c), expected, 1.0) < tolerance);
      }
}

TEMPLATE_TEST_CASE("grouped weight gradients sum each group's rows", "[grouped_gemm]", float,
                   double) {
  using T = TestType;
  const auto [m, n] = GENERATE(table<std::size_t, std::size_t>({{4, 6}, {1, 70}, {70, 37}}));
  const double tolerance = 60 * static_cast<double>(std::numeric_limits<T>::epsilon());
  // The kernels of this build, then those of devices with teams of one and two threads.
  const int threads = GENERATE(0, 1, 2);
  if (threads > ExecutionSpace().concurrency()) return;
  const bool ones = threads > 0 && m == 1;
  for (const auto& offsets : all_offsets())
    for (const T beta : {T(0), T(1)}) {
      CAPTURE(offsets, beta, threads);
      const std::size_t groups = offsets.size() - 1, rows = at(offsets, groups);
      const auto a = ones ? std::vector<T>(rows, 1) : Draw(3).many<T>(rows * m);
      const auto b = Draw(4).many<T>(rows * n);
      const T start = beta == T(0) ? std::numeric_limits<T>::quiet_NaN() : T(2);
      const auto c = device_matrix(groups * m, n, std::vector<T>(groups * m * n, start));
      const Matrix<const T> left = ones ? Matrix<const T>() : device_matrix(rows, m, a);
      const Matrix<const T> right = device_matrix(rows, n, b);
      if (threads == 0)
        grouped_gemm_transposed<T>(ExecutionSpace(), left, right, beta, c, offsets);
      else
        detail::grouped_gemm_transposed_teams<T>(ExecutionSpace(), left, right, beta, c, offsets,
                                                 threads);
      std::vector<double> expected(groups * m * n, beta == T(0) ? 0 : 2);
      for (std::size_t g = 0; g < groups; ++g)
        for (std::size_t r = at(offsets, g); r < at(offsets, g + 1); ++r)
          for (std::size_t i = 0; i < m; ++i)
            for (std::size_t j = 0; j < n; ++j)
              expected[(g * m + i) * n + j] +=
                  static_cast<double>(a[r * m + i]) * static_cast<double>(b[r * n + j]);
      CHECK(worst_error(on_host(c), expected, 1.0) < tolerance);
    }
}

TEST_CASE("a grouped GEMM refuses what does not fit and names the shapes", "[grouped_gemm]") {
  const ExecutionSpace space;
  const Matrix<float> a("a", 10, 3), b("b", 8, 3), c("c", 10, 4), short_c("short_c", 9, 4);
  const auto run = [&](const Matrix<const float>& left, const Matrix<const float>& right,
                       const Matrix<float>& out, const std::vector<int>& offsets) {
    return message_of<Error>(
        [&] { grouped_gemm<float>(space, Transpose::yes, left, right, 0, out, offsets); });
  };
  CHECK_THAT(run(a, b, c, {0}), contains("no groups"));
  CHECK_THAT(run(a, b, c, {0, 2, 5, 10}), contains("8 stacked rows") && contains("3 groups"));
  CHECK_THAT(run(a, b, c, {0, 11}), contains("row 11 of 10"));
  CHECK_THAT(run(a, b, short_c, {0, 5, 10}), contains("(9, 4), expected (10, 4)"));
  CHECK_THAT(run(c, b, c, {0, 5, 10}), contains("(4, 3)") && contains("(4, 4)"));
  CHECK_THAT(message_of<Error>([&] {
               grouped_gemm_transposed<float>(space, a, short_c, 0, Matrix<float>("g", 6, 4),
                                              std::vector<int>{0, 5, 10});
             }),
             contains("(9, 4), expected (10, 4)"));
}
