// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "moe/grouped_teams.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"

#include <algorithm>

namespace kokomoe::detail {

namespace {

/// Of the result, and of the sum at a time.
constexpr int tile_rows = 64, tile_columns = 64, tile_depth = 16;
/// A lane makes part x part elements of a tile, part_stride apart.
constexpr int part = 4, part_stride = 16, lanes = part_stride * part_stride;
static_assert(part * part_stride == tile_rows && part * part_stride == tile_columns);

/// Groups of a launch: what goes along with a kernel must stay below 4 KiB.
constexpr int most_groups = 256;

int tiles_of(int size, int tile) {
  return (size + tile - 1) / tile;
}

/// A group's matrix, element (i, j) at data[i row + j column]; no data: ones.
template <class T>
struct Elements {
  const T* data = nullptr;
  std::size_t row = 0, column = 0;
  std::size_t each_row = 0;    ///< elements by which a group's begins later for every row before it
  std::size_t each_group = 0;  ///< and for every group

  KOKKOS_INLINE_FUNCTION Elements of(std::size_t group, std::size_t first_row) const {
    Elements own = *this;
    if (data != nullptr) own.data = data + group * each_group + first_row * each_row;
    return own;
  }
  KOKKOS_INLINE_FUNCTION T at(int i, int j) const {
    return data == nullptr
               ? T(1)
               : data[static_cast<std::size_t>(i) * row + static_cast<std::size_t>(j) * column];
  }
};

/// C_g (m, n) = A_g (m, k) B_g (k, n) + beta C_g for every group; either m or k is its number of
/// rows.
template <class T>
struct Products {
  Elements<T> a, b, c;
  T* result = nullptr;
  T beta = 0;
  int m = 0, n = 0, k = 0;
  bool rows_of_c = false;  ///< m is the number of rows, else k
  int column_tiles = 0;
  int first_group = 0, groups = 0;
  int row[most_groups + 1] = {};   ///< a group's first
  int tile[most_groups + 1] = {};  ///< the first of its strips of tiles

  KOKKOS_INLINE_FUNCTION int group_of_strip(int strip) const {
    int low = 0, high = groups;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (tile[middle] <= strip)
        low = middle;
      else
        high = middle;
    }
    return low;
  }
};

template <class T>
using Scratch = Kokkos::View<T**, Kokkos::LayoutRight, ExecutionSpace::scratch_memory_space,
                             Kokkos::MemoryTraits<Kokkos::Unmanaged>>;

/// Elements (i0 + i, j0 + j) of x, zeros beyond (rows, columns), to tile(j, i) or tile(i, j);
/// neighbours in memory by neighbouring threads.
template <class T, class Member>
KOKKOS_INLINE_FUNCTION void load(const Member& team, const Elements<T>& x, int rows, int columns,
                                 int i0, int j0, int high, int wide, bool turned,
                                 const Scratch<T>& tile) {
  const bool along = x.column == 1;
  Kokkos::parallel_for(Kokkos::TeamThreadRange(team, high * wide), [&](const int e) {
    const int i = along ? e / wide : e % high, j = along ? e % wide : e / high;
    const T value = i0 + i < rows && j0 + j < columns ? x.at(i0 + i, j0 + j) : T(0);
    if (turned)
      tile(j, i) = value;
    else
      tile(i, j) = value;
  });
}

/// A team has lanes / rounds threads; a thread does the work of `rounds` lanes in turn, each with
/// sums of its own in registers.
template <class T, int rounds>
void multiply(const ExecutionSpace& space, const Products<T>& p) {
  using Policy = Kokkos::TeamPolicy<ExecutionSpace, Kokkos::LaunchBounds<lanes, 1>, InArguments>;
  static_assert(sizeof(Products<T>) < 3584, "launches take 4 KiB of arguments");
  using Member = typename Policy::member_type;
  constexpr int threads = lanes / rounds;
  const int tiles = p.tile[p.groups] * p.column_tiles;
  if (tiles == 0) return;
  Policy policy(space, tiles, threads);
  policy.set_scratch_size(0, Kokkos::PerTeam(Scratch<T>::shmem_size(tile_depth, tile_rows) +
                                             Scratch<T>::shmem_size(tile_depth, tile_columns)));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::grouped_gemm"), policy, KOKKOS_LAMBDA(const Member& team) {
        const Scratch<T> left(team.team_scratch(0), tile_depth, tile_rows);
        const Scratch<T> right(team.team_scratch(0), tile_depth, tile_columns);
        const int strip = team.league_rank() / p.column_tiles;
        const int g = p.group_of_strip(strip);
        const int rows = p.row[g + 1] - p.row[g];
        const auto group = static_cast<std::size_t>(p.first_group + g);
        const auto first_row = static_cast<std::size_t>(p.row[g]);
        const Elements<T> a = p.a.of(group, first_row), b = p.b.of(group, first_row);
        T* const c = p.result + group * p.c.each_group + first_row * p.c.each_row;
        const int m = p.rows_of_c ? rows : p.m, k = p.rows_of_c ? p.k : rows;
        const int i0 = (strip - p.tile[g]) * tile_rows;
        const int j0 = team.league_rank() % p.column_tiles * tile_columns;
        T sum[rounds][part][part];
        for (int r = 0; r < rounds; ++r)
          for (int i = 0; i < part; ++i)
            for (int j = 0; j < part; ++j) sum[r][i][j] = T(0);
        for (int k0 = 0; k0 < k; k0 += tile_depth) {
          load<T>(team, a, m, k, i0, k0, tile_rows, tile_depth, true, left);
          load<T>(team, b, k, p.n, k0, j0, tile_depth, tile_columns, false, right);
          team.team_barrier();
          for (int r = 0; r < rounds; ++r) {
            const int lane = static_cast<int>(team.team_rank()) + r * threads;
            const int i1 = lane / part_stride, j1 = lane % part_stride;
            for (int q = 0; q < tile_depth; ++q) {
              T x[part], y[part];
              for (int i = 0; i < part; ++i) x[i] = left(q, i1 + i * part_stride);
              for (int j = 0; j < part; ++j) y[j] = right(q, j1 + j * part_stride);
              for (int i = 0; i < part; ++i)
                for (int j = 0; j < part; ++j) sum[r][i][j] += x[i] * y[j];
            }
          }
          team.team_barrier();
        }
        for (int r = 0; r < rounds; ++r) {
          const int lane = static_cast<int>(team.team_rank()) + r * threads;
          for (int i = 0; i < part; ++i)
            for (int j = 0; j < part; ++j) {
              const int ci = i0 + lane / part_stride + i * part_stride;
              const int cj = j0 + lane % part_stride + j * part_stride;
              if (ci >= m || cj >= p.n) continue;
              T& to = c[static_cast<std::size_t>(ci) * p.c.row + static_cast<std::size_t>(cj)];
              to = p.beta == T(0) ? sum[r][i][j] : p.beta * to + sum[r][i][j];
            }
        }
      });
}

template <class T>
void multiply(const ExecutionSpace& space, const Products<T>& p, int threads) {
  if (threads == 0) threads = host_accessible ? 1 : lanes;
#if defined(KOKOMOE_FORCE_TEAM_ROWS)
  threads = std::min(team_size(space), 2);
#endif
  switch (threads) {
    case 1:
      return multiply<T, lanes>(space, p);
    case 2:
      return multiply<T, lanes / 2>(space, p);
    case lanes:
      return multiply<T, 1>(space, p);
    default:
      fail("grouped_gemm", "no teams of " + std::to_string(threads) + " threads");
  }
}

/// A launch for each most_groups groups.
template <class T>
void multiply_all(const ExecutionSpace& space, Products<T> p, std::span<const int> offsets,
                  int threads) {
  const int groups = static_cast<int>(offsets.size()) - 1;
  p.column_tiles = tiles_of(p.n, tile_columns);
  for (p.first_group = 0; p.first_group < groups; p.first_group += most_groups) {
    p.groups = std::min(most_groups, groups - p.first_group);
    for (int g = 0; g <= p.groups; ++g)
      p.row[g] = offsets[static_cast<std::size_t>(p.first_group + g)] - offsets[0];
    p.tile[0] = 0;
    for (int g = 0; g < p.groups; ++g)
      p.tile[g + 1] = p.tile[g] + tiles_of(p.rows_of_c ? p.row[g + 1] - p.row[g] : p.m, tile_rows);
    multiply<T>(space, p, threads);
  }
}

}  // namespace

template <class T>
void grouped_gemm_teams(const ExecutionSpace& space, Transpose transpose_b,
                        const Matrix<const T>& a, const Matrix<const T>& b, T beta,
                        const Matrix<T>& c, std::span<const int> offsets, int team_threads) {
  const std::size_t k = a.extent(1), n = c.extent(1);
  Products<T> p;
  p.a = {a.data(), k, 1, k, 0};
  p.b = transpose_b == Transpose::yes ? Elements<T>{b.data(), 1, k, 0, k * n}
                                      : Elements<T>{b.data(), n, 1, 0, k * n};
  p.c = {nullptr, n, 1, n, 0};
  p.result = c.data();
  p.beta = beta;
  p.n = static_cast<int>(n);
  p.k = static_cast<int>(k);
  p.rows_of_c = true;
  multiply_all<T>(space, p, offsets, team_threads);
}

template <class T>
void grouped_gemm_transposed_teams(const ExecutionSpace& space, const Matrix<const T>& a,
                                   const Matrix<const T>& b, T beta, const Matrix<T>& c,
                                   std::span<const int> offsets, int team_threads) {
  const std::size_t m = c.extent(0) / (offsets.size() - 1), n = c.extent(1);
  Products<T> p;
  p.a = {a.data(), 1, m, m, 0};
  p.b = {b.data(), n, 1, n, 0};
  p.c = {nullptr, n, 1, 0, m * n};
  p.result = c.data();
  p.beta = beta;
  p.m = static_cast<int>(m);
  p.n = static_cast<int>(n);
  multiply_all<T>(space, p, offsets, team_threads);
}

#define KOKOMOE_INSTANTIATE(T)                                                                  \
  template void grouped_gemm_teams<T>(const ExecutionSpace&, Transpose, const Matrix<const T>&, \
                                      const Matrix<const T>&, T, const Matrix<T>&,              \
                                      std::span<const int>, int);                               \
  template void grouped_gemm_transposed_teams<T>(const ExecutionSpace&, const Matrix<const T>&, \
                                                 const Matrix<const T>&, T, const Matrix<T>&,   \
                                                 std::span<const int>, int);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe::detail
