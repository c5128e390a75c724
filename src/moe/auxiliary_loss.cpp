// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/auxiliary_loss.hpp"

#include "kokomoe/core/clear.hpp"
#include "kokomoe/core/column_sum.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/parameters/products.hpp"

#include <algorithm>
#include <cmath>

namespace kokomoe {

namespace {

template <class T>
KOKKOS_INLINE_FUNCTION T log_sum_exp(const T* z, int experts, T& maximum) {
  maximum = z[0];
  for (int e = 1; e < experts; ++e) maximum = z[e] > maximum ? z[e] : maximum;
  T sum = 0;
  for (int e = 0; e < experts; ++e) sum += Kokkos::exp(z[e] - maximum);
  return maximum + Kokkos::log(sum);
}

/// What probabilities and squares of log-sum-exps may be at most, a token, as powers of two.
constexpr int probability_bits = 1, square_bits = 20;

/// Column sums over this rank's tokens: in T over fixed tiles, or exact ones.
template <class T>
Vector<const double> sums_over_tokens(const StepContext& ctx, const Matrix<const T>& values,
                                      int limit_bits) {
  const Vector<double> result = ctx.scratch->vector<double>(values.extent(1));
  if (ctx.layout_free) {
    grid_column_sum<T>(ctx.space, *ctx.scratch, values, segments_of(ctx),
                       exact_sum::Grid(limit_bits, ctx.update_tokens), result);
    return result;
  }
  const Vector<T> sums = ctx.scratch->template vector<T>(values.extent(1));
  column_sum<T>(ctx.space, *ctx.scratch, values, Matrix<const T>(), Vector<const T>(), T(0), sums);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::auxiliary::sums"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, sums.extent(0)),
      KOKKOS_LAMBDA(const std::size_t c) { result(c) = static_cast<double>(sums(c)); });
  return result;
}

}  // namespace

template <class T>
void gather_statistics(const StepContext& ctx, const Vector<const int>& counts,
                       const Matrix<const T>& probability, const Matrix<const T>& logits,
                       bool squares, const Vector<double>& statistics) {
  const int experts = static_cast<int>(counts.extent(0));
  const int tokens = static_cast<int>(logits.extent(0));
  const bool probable = probability.extent(1) != 0;
  if (statistics.extent(0) != static_cast<std::size_t>(LoadStatistics::width(experts)))
    fail_shape("gather_statistics", "statistics", 1, statistics.extent(0), 1,
               static_cast<std::size_t>(LoadStatistics::width(experts)));
  ArenaScope scope(*ctx.scratch);
  const Vector<const double> sums =
      probable ? sums_over_tokens<T>(ctx, probability, probability_bits) : Vector<const double>();
  Vector<const double> total;
  if (squares) {
    const Matrix<T> square = ctx.scratch->template matrix<T>(static_cast<std::size_t>(tokens), 1);
    Kokkos::parallel_for(
        KOKOMOE_LABEL("moe::auxiliary::z_square"),
        Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, tokens), KOKKOS_LAMBDA(const int t) {
          T maximum;
          const T lse = log_sum_exp(&logits(t, 0), experts, maximum);
          square(t, 0) = lse * lse;
        });
    total = sums_over_tokens<T>(ctx, square, square_bits);
  }
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::auxiliary::statistics"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, experts), KOKKOS_LAMBDA(const int e) {
        statistics(e) = counts(e);
        statistics(experts + e) = probable ? sums(e) : 0.0;
        if (e > 0) return;
        statistics(2 * experts) = squares ? total(0) : 0.0;
        statistics(2 * experts + 1) = 0;
      });
}

template <class T>
void balance_gradient(const ExecutionSpace& space, double alpha, const Vector<const double>& counts,
                      double tokens, const Matrix<T>& d_probability) {
  const int experts = static_cast<int>(counts.extent(0));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::auxiliary::balance_gradient"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, d_probability.extent(0)),
      KOKKOS_LAMBDA(const int t) {
        double sum = 0;
        for (int e = 0; e < experts; ++e) sum += counts(e);
        const double scale = sum > 0 ? alpha * experts / (sum * tokens) : 0;
        for (int e = 0; e < experts; ++e) d_probability(t, e) = static_cast<T>(scale * counts(e));
      });
}

namespace {

/// Calls count(token, expert) for each slot that is counted.
template <class T, class Count>
void for_each_counted(const ExecutionSpace& space, const Routing<T>& routing, const Count& count) {
  const int experts = routing.experts;
  const Vector<const int> token = routing.token, expert = routing.expert;
  const Vector<const unsigned char> counted = routing.counted;
  const bool all = counted.extent(0) == 0;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::auxiliary::count"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, expert.extent(0)), KOKKOS_LAMBDA(const int n) {
        const int e = expert(n);
        if (e >= 0 && e < experts && (all || counted(n) != 0)) count(token(n), e);
      });
}

/// Adds one to an entry: whole numbers, so the order does not show.
struct CountExpert {
  Vector<int> counts;
  KOKKOS_INLINE_FUNCTION void operator()(int, int e) const { Kokkos::atomic_add(&counts(e), 1); }
};

struct CountInSequence {
  Matrix<int> counts;
  Vector<const int> sequence;
  KOKKOS_INLINE_FUNCTION void operator()(int t, int e) const {
    Kokkos::atomic_add(&counts(sequence(t), e), 1);
  }
};

/// (T) the local sequence of each token.
Vector<const int> sequence_of_token(const StepContext& ctx) {
  const int sequences = ctx.tokens.sequences;
  const Vector<int> result = ctx.saved->vector<int>(static_cast<std::size_t>(ctx.tokens.tokens));
  const Vector<const int> offsets = ctx.tokens.sequence_offsets;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::auxiliary::sequence"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, sequences), KOKKOS_LAMBDA(const int b) {
        for (int t = offsets(b); t < offsets(b + 1); ++t) result(t) = b;
      });
  return result;
}

template <class View>
void set_zero(const ExecutionSpace& space, const View& view) {
  Kokkos::deep_copy(space, view, typename View::value_type(0));
}

}  // namespace

template <class T>
Vector<int> count_assignments(const ExecutionSpace& space, Arena& arena,
                              const Routing<T>& routing) {
  const Vector<int> counts = arena.vector<int>(static_cast<std::size_t>(routing.experts));
  set_zero(space, counts);
  for_each_counted(space, routing, CountExpert{counts});
  return counts;
}

template <class T>
Matrix<int> count_by_sequence(const StepContext& ctx, const Routing<T>& routing) {
  const Matrix<int> counts = ctx.saved->matrix<int>(static_cast<std::size_t>(ctx.tokens.sequences),
                                                    static_cast<std::size_t>(routing.experts));
  set_zero(ctx.space, counts);
  for_each_counted(ctx.space, routing, CountInSequence{counts, sequence_of_token(ctx)});
  return counts;
}

template <class T>
void add_sequence_balance(const StepContext& ctx, double alpha, const Matrix<const int>& counts,
                          const Matrix<const T>& probability, const Vector<double>& sum) {
  const int experts = static_cast<int>(counts.extent(1));
  const int count = ctx.tokens.sequences;
  const Vector<const int> offsets = ctx.tokens.sequence_offsets;
  const Vector<double> by_sequence = ctx.saved->vector<double>(static_cast<std::size_t>(count));
  const bool exactly = ctx.layout_free;
  // The term of a token is at most alpha E; a thousand leaves room for the weight alpha.
  const exact_sum::Grid grid(10, ctx.update_tokens);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::auxiliary::sequence_balance"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, count), KOKKOS_LAMBDA(const int b) {
        double assignments = 0, value = 0;
        for (int e = 0; e < experts; ++e) assignments += counts(b, e);
        for (int t = offsets(b); t < offsets(b + 1); ++t)
          for (int e = 0; e < experts; ++e) value += counts(b, e) * probability(t, e);
        const double loss = assignments > 0 ? alpha * experts * value / assignments : 0;
        by_sequence(b) = exactly ? grid.round(loss) : loss;
      });
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::auxiliary::sequence_balance_sum"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, 1), KOKKOS_LAMBDA(const int) {
        for (int b = 0; b < count; ++b) sum(0) += by_sequence(b);
      });
}

template <class T>
void sequence_balance_gradient(const StepContext& ctx, double alpha,
                               const Matrix<const int>& counts, const Matrix<T>& d_probability) {
  const int experts = static_cast<int>(counts.extent(1));
  const Vector<const int> offsets = ctx.tokens.sequence_offsets;
  const double scale = alpha * experts / ctx.update_tokens;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::auxiliary::sequence_balance_gradient"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, ctx.tokens.sequences),
      KOKKOS_LAMBDA(const int b) {
        double assignments = 0;
        for (int e = 0; e < experts; ++e) assignments += counts(b, e);
        for (int t = offsets(b); t < offsets(b + 1); ++t)
          for (int e = 0; e < experts; ++e)
            d_probability(t, e) =
                assignments > 0 ? static_cast<T>(scale * counts(b, e) / assignments) : T(0);
      });
}

void add_local_balance(const StepContext& ctx, double alpha, const Vector<const double>& counts,
                       const Vector<const double>& statistics, const Vector<double>& sum) {
  const int experts = static_cast<int>(counts.extent(0));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::auxiliary::local_balance"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, 1), KOKKOS_LAMBDA(const int) {
        double assignments = 0, value = 0;
        for (int e = 0; e < experts; ++e) {
          assignments += counts(e);
          value += counts(e) * statistics(experts + e);
        }
        if (assignments > 0) sum(0) += alpha * experts * value / assignments;
      });
}

template <class T>
void z_loss_gradient(const ExecutionSpace& space, double c, const Matrix<const T>& z, int experts,
                     double tokens, const Matrix<T>& d_z) {
  if (c == 0) {
    clear(space, d_z);
    return;
  }
  const int columns = static_cast<int>(d_z.extent(1));
  const T scale = static_cast<T>(2 * c / tokens);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::auxiliary::z_loss_gradient"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, d_z.extent(0)), KOKKOS_LAMBDA(const int t) {
        T maximum;
        const T lse = log_sum_exp(&z(t, 0), experts, maximum);
        for (int e = 0; e < experts; ++e) d_z(t, e) = scale * lse * Kokkos::exp(z(t, e) - lse);
        for (int e = experts; e < columns; ++e) d_z(t, e) = T(0);
      });
}

LoadMetrics load_metrics(std::span<const double> statistics, int experts, double tokens) {
  LoadMetrics metrics;
  load_metrics(statistics, experts, tokens, metrics);
  return metrics;
}

void load_metrics(std::span<const double> statistics, int experts, double tokens,
                  LoadMetrics& metrics) {
  if (statistics.size() != static_cast<std::size_t>(LoadStatistics::width(experts)))
    fail_shape("load_metrics", "statistics", 1, statistics.size(), 1,
               static_cast<std::size_t>(LoadStatistics::width(experts)));
  metrics.balance = metrics.z_square = metrics.router_loss = 0;
  metrics.entropy = metrics.largest_over_mean = 0;
  metrics.dead = 0;
  const auto e_count = static_cast<std::size_t>(experts);
  metrics.counts.assign(statistics.begin(), statistics.begin() + experts);
  double assignments = 0, largest = 0;
  for (const double count : metrics.counts) {
    assignments += count;
    largest = std::max(largest, count);
  }
  if (tokens == 0 || assignments == 0) return;
  metrics.dead = static_cast<int>(std::count(metrics.counts.begin(), metrics.counts.end(), 0.0));
  for (std::size_t e = 0; e < e_count; ++e) {
    const double f = metrics.counts[e] / assignments;
    metrics.balance += experts * f * statistics[e_count + e] / tokens;
    if (f > 0) metrics.entropy -= f * std::log(f);
  }
  metrics.largest_over_mean = largest * experts / assignments;
  metrics.z_square = statistics[2 * e_count] / tokens;
  metrics.router_loss = statistics[2 * e_count + 1] / tokens;
}

#define KOKOMOE_INSTANTIATE(T)                                                                     \
  template Vector<int> count_assignments<T>(const ExecutionSpace&, Arena&, const Routing<T>&);     \
  template Matrix<int> count_by_sequence<T>(const StepContext&, const Routing<T>&);                \
  template void add_sequence_balance<T>(const StepContext&, double, const Matrix<const int>&,      \
                                        const Matrix<const T>&, const Vector<double>&);            \
  template void sequence_balance_gradient<T>(const StepContext&, double, const Matrix<const int>&, \
                                             const Matrix<T>&);                                    \
  template void gather_statistics<T>(const StepContext&, const Vector<const int>&,                 \
                                     const Matrix<const T>&, const Matrix<const T>&, bool,         \
                                     const Vector<double>&);                                       \
  template void balance_gradient<T>(const ExecutionSpace&, double, const Vector<const double>&,    \
                                    double, const Matrix<T>&);                                     \
  template void z_loss_gradient<T>(const ExecutionSpace&, double, const Matrix<const T>&, int,     \
                                   double, const Matrix<T>&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
