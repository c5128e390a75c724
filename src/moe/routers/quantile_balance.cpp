// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/quantile_balance.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/moe/detail/chosen_weights.hpp"
#include "kokomoe/moe/detail/selection.hpp"
#include "kokomoe/moe/routing_groups.hpp"

namespace kokomoe {

namespace {

/// Thresholds of one group's tokens and experts.
template <class T>
struct Quantiles {
  Matrix<const T> score;  ///< (T, E)
  Vector<T> alpha;        ///< (T)
  Matrix<T> beta;         ///< (G, E)
  int experts, k, iterations;

  /// The rank-th largest value(0), ..., value(count - 1); 0 where that is NaN.
  template <class Value>
  KOKKOS_INLINE_FUNCTION static T nth_largest(int count, int rank, const Value& value) {
    const auto key = detail::nth_largest_key<T>(
        count, rank, [&](int i) { return detail::order_key(value(i)); });
    return key == 0 ? T(0) : detail::from_order_key<T>(key);
  }

  KOKKOS_INLINE_FUNCTION void run(const Row& row, int begin, int count) const {
    T* const b = &beta(row.index(), 0);
    row.each(experts, [&](const int e) { b[e] = 0; });
    const int even = (count * k + experts - 1) / experts;
    if (even >= count) return;
    for (int iteration = 0; iteration < iterations; ++iteration) {
      row.each(count, [&](const int j) {
        alpha(begin + j) =
            nth_largest(experts, k + 1, [&](int e) { return score(begin + j, e) - b[e]; });
      });
      row.each(experts, [&](const int e) {
        const auto surplus = [&](int j) { return score(begin + j, e) - alpha(begin + j); };
        b[e] = T(0.5) * (nth_largest(count, even, surplus) + nth_largest(count, even + 1, surplus));
      });
    }
  }
};

}  // namespace

template <class T>
RouterInfo QuantileBalanceRouter<T>::info() {
  RouterInfo info{"quantile_balance", "the top k of scores less the experts' quantile thresholds",
                  "Su 2026, kexue.fm/archives/11619",
                  {{"score", std::string("sigmoid"), "s: sigmoid or softmax of the logits", 0, 0,
                    {"sigmoid", "softmax"}},
                   {"iterations", std::int64_t(8), "how often thresholds are improved", 1, 1e6}}};
  info.batch_coupled = true;
  info.balance_loss = false;
  info.takes_k = true;
  info.defaults.balance = 0;
  return info;
}

template <class T>
QuantileBalanceRouter<T>::QuantileBalanceRouter(const RouterPlace& place,
                                                const RouterOptions& options,
                                                ParameterStore<T>& store)
    : Router<T>(place, store, place.experts),
      softmax_(options.text("score") == "softmax"),
      iterations_(static_cast<int>(options.integer("iterations"))) {}

template <class T>
Routing<T> QuantileBalanceRouter<T>::route_logits(const StepContext& ctx, const Matrix<const T>& z,
                                                  const Routing<T>* replay) const {
  const int tokens = static_cast<int>(z.extent(0)), experts = this->place_.experts;
  const int k = this->place_.k;
  const bool softmax = softmax_;
  require_shape("QuantileBalanceRouter", "logits", z, z.extent(0),
                static_cast<std::size_t>(experts));
  Routing<T> routing = make_token_choice<T>(ctx.space, *ctx.saved, tokens, experts, k);
  routing.probability = ctx.saved->template matrix<T>(z.extent(0), z.extent(1));
  const Matrix<T> p = routing.probability;
  const Vector<int> expert = routing.expert;
  const Vector<T> weight = routing.weight;
  if (replay != nullptr && replay->slots() != tokens * k)
    fail("QuantileBalanceRouter", "the routing to replay is of another router");

  const ArenaScope scope(*ctx.scratch);
  const Matrix<T> score = ctx.scratch->template matrix<T>(z.extent(0), z.extent(1));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::quantile_balance_score"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, tokens), KOKKOS_LAMBDA(const int t) {
        if (softmax) {
          const detail::LogitRow<T> row(&z(t, 0), experts);
          detail::softmax_row(row, [](int) { return true; }, &p(t, 0));
          for (int e = 0; e < experts; ++e) score(t, e) = p(t, e);
          return;
        }
        T sum = 0;
        for (int e = 0; e < experts; ++e) {
          score(t, e) = detail::logistic(z(t, e));
          sum += score(t, e);
        }
        for (int e = 0; e < experts; ++e)
          p(t, e) = sum == T(0) ? T(1) / static_cast<T>(experts) : score(t, e) / sum;
      });

  if (replay != nullptr) {
    Kokkos::deep_copy(ctx.space, expert, replay->expert);
  } else {
    const RoutingGroups groups(ctx, this->place_.routing_group);
    const Quantiles<T> quantiles{
        score,
        ctx.scratch->template vector<T>(z.extent(0)),
        ctx.scratch->template matrix<T>(static_cast<std::size_t>(groups.count), z.extent(1)),
        experts, k, iterations_};
    for_each_row(
        KOKOMOE_LABEL("moe::router::quantile_balance_thresholds"), ctx.space, groups.count,
        KOKKOS_LAMBDA(const Row& row) {
          const int g = row.index(), begin = groups.begin(g), count = groups.end(g) - begin;
          quantiles.run(row, begin, count);
          row.each(count, [&](const int j) {
            int* const chosen = &expert((begin + j) * k);
            for (int r = 0; r < k; ++r)
              chosen[r] = detail::best_remaining(experts, chosen, r, [&](int e) {
                return score(begin + j, e) - quantiles.beta(g, e);
              });
          });
        });
  }
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::quantile_balance"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, tokens), KOKKOS_LAMBDA(const int t) {
        T sum = 0;
        for (int n = t * k; n < (t + 1) * k; ++n) sum += score(t, expert(n));
        for (int n = t * k; n < (t + 1) * k; ++n) {
          const T s = score(t, expert(n));
          weight(n) = k == 1 ? s : sum == T(0) ? T(1) / static_cast<T>(k) : s / sum;
        }
      });
  return routing;
}

template <class T>
void QuantileBalanceRouter<T>::logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                                               const Routing<T>& routing,
                                               const RouterFeedback<T>& feedback,
                                               const Matrix<T>& d_z) const {
  const int experts = routing.experts, k = this->place_.k;
  const bool softmax = softmax_;
  const Matrix<const T> p = routing.probability;
  const Vector<const int> expert = routing.expert;
  const Vector<const T> weight = routing.weight, d_weight = feedback.d_weight;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::quantile_balance_backward"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, routing.tokens),
      KOKKOS_LAMBDA(const int t) {
        if (k == 1 && softmax) {
          detail::add_softmax_backward(
              experts, &p(t, 0), [&](int e) { return e == expert(t) ? d_weight(t) : T(0); },
              [](int) { return T(1); }, &d_z(t, 0));
          return;
        }
        T mean = 0;
        for (int n = t * k; n < (t + 1) * k && k > 1; ++n) mean += weight(n) * d_weight(n);
        // Shares of softmax probabilities are a softmax themselves: their logits' slope is 1.
        for (int n = t * k; n < (t + 1) * k; ++n) {
          const T slope = softmax ? T(1) : T(1) - detail::logistic(z(t, expert(n)));
          d_z(t, expert(n)) += slope * weight(n) * (d_weight(n) - mean);
        }
      });
}

template class QuantileBalanceRouter<float>;
template class QuantileBalanceRouter<double>;

}  // namespace kokomoe
