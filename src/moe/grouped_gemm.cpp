// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/grouped_gemm.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/core/rows_of.hpp"
#include "moe/grouped_teams.hpp"

namespace kokomoe {

namespace {

std::size_t groups_of(const char* where, std::span<const int> offsets, std::size_t rows,
                      std::size_t stacked_rows) {
  if (offsets.size() < 2) fail(where, "no groups");
  const std::size_t groups = offsets.size() - 1;
  if (stacked_rows % groups != 0)
    fail(where, std::to_string(stacked_rows) + " stacked rows do not divide into " +
                    std::to_string(groups) + " groups");
  if (offsets.back() < offsets.front() ||
      static_cast<std::size_t>(offsets.back() - offsets.front()) > rows)
    fail(where, "offsets from row " + std::to_string(offsets.front()) + " end at row " +
                    std::to_string(offsets.back()) + " of " + std::to_string(rows));
  return groups;
}

}  // namespace

template <class T>
void grouped_gemm(const ExecutionSpace& space, Transpose transpose_b, const Matrix<const T>& a,
                  const Matrix<const T>& b, T beta, const Matrix<T>& c,
                  std::span<const int> offsets) {
  const std::size_t groups = groups_of("grouped_gemm", offsets, a.extent(0), b.extent(0));
  require_shape("grouped_gemm", "c", c, a.extent(0), c.extent(1));
  const std::size_t block = b.extent(0) / groups;
  const bool turned = transpose_b == Transpose::yes;
  require_shape("grouped_gemm", "a group's part of b", rows_of(b, 0, block),
                turned ? c.extent(1) : a.extent(1), turned ? a.extent(1) : c.extent(1));
  if constexpr (KOKOMOE_TEAM_ROWS) {
    detail::grouped_gemm_teams<T>(space, transpose_b, a, b, beta, c, offsets);
  } else {
    for (std::size_t g = 0; g < groups; ++g) {
      const auto begin = static_cast<std::size_t>(offsets[g] - offsets[0]);
      const auto end = static_cast<std::size_t>(offsets[g + 1] - offsets[0]);
      if (begin == end) continue;
      gemm<T>(space, Transpose::no, transpose_b, T(1), rows_of(a, begin, end),
              rows_of(b, g * block, (g + 1) * block), beta, rows_of(c, begin, end));
    }
  }
}

template <class T>
void grouped_gemm_transposed(const ExecutionSpace& space, const Matrix<const T>& a,
                             const Matrix<const T>& b, T beta, const Matrix<T>& c,
                             std::span<const int> offsets) {
  const std::size_t groups =
      groups_of("grouped_gemm_transposed", offsets, a.extent(0), c.extent(0));
  require_shape("grouped_gemm_transposed", "b", b, a.extent(0), b.extent(1));
  const std::size_t block = c.extent(0) / groups;
  require_shape("grouped_gemm_transposed", "a group's part of c", rows_of(c, 0, block), a.extent(1),
                b.extent(1));
  if constexpr (KOKOMOE_TEAM_ROWS) {
    detail::grouped_gemm_transposed_teams<T>(space, a, b, beta, c, offsets);
  } else {
    for (std::size_t g = 0; g < groups; ++g) {
      const auto begin = static_cast<std::size_t>(offsets[g] - offsets[0]);
      const auto end = static_cast<std::size_t>(offsets[g + 1] - offsets[0]);
      gemm<T>(space, Transpose::yes, Transpose::no, T(1), rows_of(a, begin, end),
              rows_of(b, begin, end), beta, rows_of(c, g * block, (g + 1) * block));
    }
  }
}

#define KOKOMOE_INSTANTIATE(T)                                                            \
  template void grouped_gemm<T>(const ExecutionSpace&, Transpose, const Matrix<const T>&, \
                                const Matrix<const T>&, T, const Matrix<T>&,              \
                                std::span<const int>);                                    \
  template void grouped_gemm_transposed<T>(const ExecutionSpace&, const Matrix<const T>&, \
                                           const Matrix<const T>&, T, const Matrix<T>&,   \
                                           std::span<const int>);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
