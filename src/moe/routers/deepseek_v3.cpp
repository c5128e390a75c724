// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/deepseek_v3.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/detail/logit_row.hpp"

namespace kokomoe {

namespace {

/// 1 / (1 + exp(-z)) without overflow; 0 and 1 at the infinities.
template <class T>
KOKKOS_INLINE_FUNCTION T sigmoid(T z) {
  const T small = Kokkos::exp(z > T(0) ? -z : z);
  return z > T(0) ? T(1) / (T(1) + small) : small / (T(1) + small);
}

/// 1 - sigmoid(z).
template <class T>
KOKKOS_INLINE_FUNCTION T rest(T z) {
  return sigmoid(-z);
}

}  // namespace

template <class T>
RouterInfo DeepSeekV3Router<T>::info() {
  RouterInfo info{"deepseek_v3",
                  "the k largest sigmoid scores, balanced by a bias instead of a loss",
                  "DeepSeek-V3, arXiv 2412.19437; Wang et al. 2024, arXiv 2408.15664",
                  {{"bias_rate", 1e-3, "how far an expert's bias moves after each update", 0, 1e30},
                   {"route_scale", 1.0, "multiplies the weights", -1e30, 1e30}}};
  for (RouterOption& option : detail::group_options("sum"))
    info.options.push_back(std::move(option));
  info.takes_k = info.takes_capacity = true;
  // One weight over itself is 1, and teaches the router nothing.
  info.defaults.k = 2;
  info.defaults.balance = 1e-4;
  info.defaults.balance_scope = "sequence";
  info.check = detail::check_groups;
  return info;
}

template <class T>
DeepSeekV3Router<T>::DeepSeekV3Router(const RouterPlace& place, const RouterOptions& options,
                                      ParameterStore<T>& store)
    : Router<T>(place, store, place.experts),
      bias_(store.add({place.name + ".bias",
                       {static_cast<std::size_t>(place.experts)},
                       Initializer::constant(0),
                       false,
                       false,
                       true,
                       {"expert"}})),
      bias_rate_(options.real("bias_rate")),
      route_scale_(options.real("route_scale")),
      groups_(place, options) {}

template <class T>
Routing<T> DeepSeekV3Router<T>::route_logits(const StepContext& ctx, const Matrix<const T>& z,
                                             const Routing<T>* replay) const {
  const int tokens = static_cast<int>(z.extent(0)), experts = this->place_.experts;
  const int k = this->place_.k;
  const T scale = static_cast<T>(route_scale_);
  require_shape("DeepSeekV3Router", "logits", z, z.extent(0), static_cast<std::size_t>(experts));
  Routing<T> routing = make_token_choice<T>(ctx.space, *ctx.saved, tokens, experts, k);
  routing.probability = ctx.saved->template matrix<T>(z.extent(0), z.extent(1));
  const Matrix<T> p = routing.probability;
  const Vector<int> expert = routing.expert;
  const Vector<T> weight = routing.weight;
  const Vector<const T> bias = this->store_->value_vector(bias_);
  const Vector<const int> replayed = replay != nullptr ? replay->expert : Vector<int>();
  if (replay != nullptr && replay->slots() != tokens * k)
    fail("DeepSeekV3Router", "the routing to replay is of another router");
  ArenaScope scope(*ctx.scratch);
  const detail::GroupChoice<T> groups(ctx, groups_, z.extent(0));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::deepseek_v3"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, tokens), KOKKOS_LAMBDA(const int t) {
        T all = 0, chosen = 0;
        for (int e = 0; e < experts; ++e) {
          p(t, e) = sigmoid(z(t, e));
          all += p(t, e);
        }
        if (replayed.extent(0) != 0) {
          for (int r = 0; r < k; ++r) expert(t * k + r) = replayed(t * k + r);
        } else {
          groups.choose(t, [&](int e) { return p(t, e) + bias(e); });
          // Groups that were left out lose to everything, like NaN.
          const auto value = [&](int e) {
            return groups.allows(t, e) ? p(t, e) + bias(e) : Kokkos::Experimental::quiet_NaN_v<T>;
          };
          for (int r = 0; r < k; ++r)
            expert(t * k + r) = detail::best_remaining(experts, &expert(t * k), r, value);
        }
        for (int r = 0; r < k; ++r) chosen += p(t, expert(t * k + r));
        // Scores that are all zero, far below, count as equal.
        for (int r = 0; r < k; ++r)
          weight(t * k + r) =
              scale * (chosen == T(0) ? T(1) / T(k) : p(t, expert(t * k + r)) / chosen);
        for (int e = 0; e < experts; ++e)
          p(t, e) = all == T(0) ? T(1) / T(experts) : p(t, e) / all;
      });
  return routing;
}

template <class T>
void DeepSeekV3Router<T>::logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                                          const Routing<T>& routing,
                                          const RouterFeedback<T>& feedback,
                                          const Matrix<T>& d_z) const {
  const int experts = routing.experts, k = this->place_.k;
  const T scale = static_cast<T>(route_scale_);
  const Matrix<const T> p = routing.probability, d_probability = feedback.d_probability;
  const Vector<const int> expert = routing.expert;
  const Vector<const T> d_weight = feedback.d_weight;
  // A share q of sigmoids has dq_e = (1 - s_e) q_e dz_e - q_e sum_j (1 - s_j) q_j dz_j.
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::deepseek_v3_backward"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, routing.tokens),
      KOKKOS_LAMBDA(const int t) {
        detail::add_softmax_backward(
            experts, &p(t, 0),
            [&](int e) { return detail::probability_gradient(d_probability, t, e); },
            [&](int e) { return rest(z(t, e)); }, &d_z(t, 0));
        T chosen = 0, mean = 0;
        for (int r = 0; r < k; ++r) chosen += sigmoid(z(t, expert(t * k + r)));
        const auto share = [&](int e) {
          return chosen == T(0) ? T(1) / T(k) : sigmoid(z(t, e)) / chosen;
        };
        for (int r = 0; r < k; ++r) mean += share(expert(t * k + r)) * d_weight(t * k + r);
        for (int r = 0; r < k; ++r) {
          const int e = expert(t * k + r);
          d_z(t, e) += scale * rest(z(t, e)) * (share(e) * (d_weight(t * k + r) - mean));
        }
      });
}

template <class T>
void DeepSeekV3Router<T>::end_step(const StepContext& ctx, const RouterStatistics& statistics) {
  const int experts = this->place_.experts;
  const T rate = static_cast<T>(bias_rate_);
  const Vector<const double> counts = statistics.counts;
  const Vector<T> bias = this->store_->value_vector(bias_);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::deepseek_v3_bias"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, 1), KOKKOS_LAMBDA(const int) {
        double load = 0;
        for (int e = 0; e < experts; ++e) load += counts(e);
        T mean = 0;
        for (int e = 0; e < experts; ++e) {
          // Whole numbers: an even load is exactly even.
          const double excess = counts(e) * experts - load;
          bias(e) += excess < 0 ? rate : excess > 0 ? -rate : T(0);
          mean += bias(e);
        }
        mean /= T(experts);
        for (int e = 0; e < experts; ++e) bias(e) -= mean;
      });
}

template class DeepSeekV3Router<float>;
template class DeepSeekV3Router<double>;

}  // namespace kokomoe
