// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "nn/attention_teams.hpp"

#include "kokomoe/core/math.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "nn/attention_head.hpp"

#include <cmath>

namespace kokomoe::detail {

namespace {

constexpr int query_block = 32;
constexpr int key_block = 64;

using Policy = Kokkos::TeamPolicy<ExecutionSpace, InArguments>;
using Member = Policy::member_type;

template <class T>
using Scratch = Kokkos::View<T**, Kokkos::LayoutRight, ExecutionSpace::scratch_memory_space,
                             Kokkos::MemoryTraits<Kokkos::Unmanaged>>;

/// Keys [first, first + key_block) transposed into (width, key_block), zeros behind the last.
template <class T, class Source>
KOKKOS_INLINE_FUNCTION void load_transposed(const Member& team, const Source& source, int first,
                                            int keys, int width, const Scratch<T>& tile) {
  Kokkos::parallel_for(Kokkos::TeamThreadRange(team, key_block), [&](const int j) {
    const bool inside = first + j < keys;
    const T* const from = inside ? source(first + j) : nullptr;
    for (int c = 0; c < width; ++c) tile(c, j) = inside ? from[c] : T(0);
  });
}

/// out[j] = scale sum_c a[c] tile(c, j).
template <class T>
KOKKOS_INLINE_FUNCTION void row_times_tile(const T* a, const Scratch<T>& tile, int width, T scale,
                                           T* out) {
  T sum[key_block];
  for (int j = 0; j < key_block; ++j) sum[j] = 0;
  for (int c = 0; c < width; ++c) {
    const T x = a[c];
    const T* const row = &tile(c, 0);
#pragma omp simd
    for (int j = 0; j < key_block; ++j) sum[j] += x * row[j];
  }
  for (int j = 0; j < key_block; ++j) out[j] = scale * sum[j];
}

/// Fast scratch memory where a team's share fits (48 KiB on a GPU), else the slower kind.
int scratch_level(const Policy& policy, std::size_t bytes) {
  return bytes <= static_cast<std::size_t>(policy.scratch_size_max(0)) ? 0 : 1;
}

}  // namespace

template <class T>
void attention_forward_teams(const StepContext& ctx, const AttentionInput<T>& input,
                             const Matrix<T>& out, const Matrix<T>& log_sum) {
  const int width = input.width, heads = input.heads;
  const int blocks = (input.max_queries + query_block - 1) / query_block;
  const int league = input.sequences * heads * blocks;
  if (league == 0) return;
  const T scale = static_cast<T>(1 / std::sqrt(static_cast<double>(width)));
  const AttentionDropout<T> drop(ctx, input);
  const std::size_t bytes = Scratch<T>::shmem_size(width, key_block) +
                            Scratch<T>::shmem_size(query_block, key_block) +
                            Scratch<T>::shmem_size(query_block, 2);
  Policy policy(ctx.space, league, team_size(ctx.space));
  const int level = scratch_level(policy, bytes);
  policy.set_scratch_size(level, Kokkos::PerTeam(bytes));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("nn::attention"), policy, KOKKOS_LAMBDA(const Member& team) {
        const int block = team.league_rank() % blocks;
        const int head = team.league_rank() / blocks % heads;
        const AttentionHead<T> view(input, team.league_rank() / (blocks * heads), head);
        const int first_query = block * query_block;
        if (first_query >= view.queries) return;
        const int rows =
            first_query + query_block < view.queries ? query_block : view.queries - first_query;
        const Scratch<T> keys(team.team_scratch(level), width, key_block);
        const Scratch<T> scores(team.team_scratch(level), query_block, key_block);
        const Scratch<T> running(team.team_scratch(level), query_block, 2);  // maximum, sum
        const int last = view.visible(first_query + rows - 1);
        Kokkos::parallel_for(Kokkos::TeamThreadRange(team, rows), [&](const int i) {
          running(i, 0) = -Kokkos::Experimental::finite_max_v<T>;
          running(i, 1) = 0;
          T* const o = &out(view.query_begin + first_query + i, head * width);
          for (int c = 0; c < width; ++c) o[c] = 0;
        });
        for (int first = 0; first < last; first += key_block) {
          team.team_barrier();
          load_transposed<T>(
              team, [&](int j) { return view.key(j); }, first, view.keys, width, keys);
          team.team_barrier();
          Kokkos::parallel_for(Kokkos::TeamThreadRange(team, rows), [&](const int i) {
            const int visible = view.visible(first_query + i) - first;
            if (visible <= 0) return;
            const int count = visible < key_block ? visible : key_block;
            T* const s = &scores(i, 0);
            row_times_tile(view.query(first_query + i), keys, width, scale, s);
            T maximum = running(i, 0);
            for (int j = 0; j < count; ++j) maximum = s[j] > maximum ? s[j] : maximum;
            const T correction = fast_exp(running(i, 0) - maximum);
            T sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int j = 0; j < key_block; ++j) {
              const T e = j < count ? fast_exp(s[j] - maximum) : T(0);
              s[j] = e;
              sum += e;
            }
            running(i, 0) = maximum;
            running(i, 1) = running(i, 1) * correction + sum;
            const int token = view.query_begin + first_query + i;
            drop.apply(token, head, first, key_block, s);
            T* const o = &out(token, head * width);
#pragma omp simd
            for (int c = 0; c < width; ++c) o[c] *= correction;
            for (int j = 0; j < count; ++j) {
              const T p = s[j];
              const T* const v = view.value(first + j);
#pragma omp simd
              for (int c = 0; c < width; ++c) o[c] += p * v[c];
            }
          });
        }
        Kokkos::parallel_for(Kokkos::TeamThreadRange(team, rows), [&](const int i) {
          const int token = view.query_begin + first_query + i;
          T* const o = &out(token, head * width);
          const T sum = running(i, 1);  // 0: no key at all
          const T inverse = sum > T(0) ? T(1) / sum : T(0);
          for (int c = 0; c < width; ++c) o[c] *= inverse;
          log_sum(token, head) = sum > T(0) ? running(i, 0) + Kokkos::log(sum) : T(0);
        });
      });
}

template <class T>
void attention_backward_teams(const StepContext& ctx, const AttentionInput<T>& input,
                              const Matrix<const T>& out, const Matrix<const T>& log_sum,
                              const Matrix<const T>& d_out, const Matrix<T>& d_query,
                              const Matrix<T>& d_key, const Matrix<T>& d_value) {
  const int width = input.width, heads = input.heads;
  const int league = input.sequences * heads;
  if (league == 0) return;
  const T scale = static_cast<T>(1 / std::sqrt(static_cast<double>(width)));
  const AttentionDropout<T> drop(ctx, input);
  const std::size_t bytes = 2 * Scratch<T>::shmem_size(width, key_block) +
                            3 * Scratch<T>::shmem_size(query_block, key_block);
  Policy policy(ctx.space, league, team_size(ctx.space));
  const int level = scratch_level(policy, bytes);
  policy.set_scratch_size(level, Kokkos::PerTeam(bytes));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("nn::attention_backward"), policy, KOKKOS_LAMBDA(const Member& team) {
        const int head = team.league_rank() % heads;
        const AttentionHead<T> view(input, team.league_rank() / heads, head);
        const Scratch<T> keys(team.team_scratch(level), width, key_block);
        const Scratch<T> values(team.team_scratch(level), width, key_block);
        const Scratch<T> probability(team.team_scratch(level), query_block, key_block);
        const Scratch<T> d_score(team.team_scratch(level), query_block, key_block);
        const Scratch<T> keep(team.team_scratch(level), query_block, key_block);
        const auto d_q = [&](int i) {
          return &d_query(view.query_begin + i, input.query_column + head * width);
        };
        const auto d_k = [&](int j) {
          return &d_key(view.key_begin + j, input.key_column + head * width);
        };
        const auto d_v = [&](int j) {
          return &d_value(view.key_begin + j, input.value_column + head * width);
        };
        Kokkos::parallel_for(Kokkos::TeamThreadRange(team, view.queries), [&](const int i) {
          for (int c = 0; c < width; ++c) d_q(i)[c] = 0;
        });
        Kokkos::parallel_for(Kokkos::TeamThreadRange(team, view.keys), [&](const int j) {
          for (int c = 0; c < width; ++c) d_k(j)[c] = d_v(j)[c] = 0;
        });
        for (int first = 0; first < view.keys; first += key_block) {
          team.team_barrier();
          load_transposed<T>(
              team, [&](int j) { return view.key(j); }, first, view.keys, width, keys);
          load_transposed<T>(
              team, [&](int j) { return view.value(j); }, first, view.keys, width, values);
          for (int begin = 0; begin < view.queries; begin += query_block) {
            const int rows =
                begin + query_block < view.queries ? query_block : view.queries - begin;
            if (view.visible(begin + rows - 1) <= first) continue;
            team.team_barrier();
            Kokkos::parallel_for(Kokkos::TeamThreadRange(team, rows), [&](const int i) {
              const int token = view.query_begin + begin + i;
              const int visible = view.visible(begin + i) - first;
              const int count = visible < 0 ? 0 : visible < key_block ? visible : key_block;
              const T* const g = &d_out(token, head * width);
              const T* const o = &out(token, head * width);
              T mean = 0;
#pragma omp simd reduction(+ : mean)
              for (int c = 0; c < width; ++c) mean += g[c] * o[c];
              T* const p = &probability(i, 0);
              T* const ds = &d_score(i, 0);
              T* const k = &keep(i, 0);
              row_times_tile(view.query(begin + i), keys, width, scale, p);
              row_times_tile(g, values, width, T(1), ds);
              for (int j = 0; j < key_block; ++j) k[j] = T(1);
              drop.apply(token, head, first, key_block, k);
              const T lse = log_sum(token, head);
#pragma omp simd
              for (int j = 0; j < key_block; ++j) {
                const T e = j < count ? fast_exp(p[j] - lse) : T(0);
                ds[j] = scale * e * (k[j] * ds[j] - mean);
                p[j] = e * k[j];
              }
              T* const dq = d_q(begin + i);
              for (int j = 0; j < count; ++j) {
                const T x = ds[j];
                const T* const key = view.key(first + j);
#pragma omp simd
                for (int c = 0; c < width; ++c) dq[c] += x * key[c];
              }
            });
            team.team_barrier();
            const int count = first + key_block < view.keys ? key_block : view.keys - first;
            Kokkos::parallel_for(Kokkos::TeamThreadRange(team, count), [&](const int j) {
              T* const dk = d_k(first + j);
              T* const dv = d_v(first + j);
              for (int i = 0; i < rows; ++i) {
                const T x = d_score(i, j), y = probability(i, j);
                const T* const q = view.query(begin + i);
                const T* const g = &d_out(view.query_begin + begin + i, head * width);
#pragma omp simd
                for (int c = 0; c < width; ++c) {
                  dk[c] += x * q[c];
                  dv[c] += y * g[c];
                }
              }
            });
          }
        }
      });
}

#define KOKOMOE_INSTANTIATE(T)                                                              \
  template void attention_forward_teams<T>(const StepContext&, const AttentionInput<T>&,    \
                                           const Matrix<T>&, const Matrix<T>&);             \
  template void attention_backward_teams<T>(const StepContext&, const AttentionInput<T>&,   \
                                            const Matrix<const T>&, const Matrix<const T>&, \
                                            const Matrix<const T>&, const Matrix<T>&,       \
                                            const Matrix<T>&, const Matrix<T>&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe::detail
