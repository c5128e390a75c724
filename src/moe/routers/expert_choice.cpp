// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/expert_choice.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/detail/logit_row.hpp"
#include "kokomoe/moe/detail/selection.hpp"
#include "kokomoe/moe/routing_groups.hpp"

namespace kokomoe {

template <class T>
RouterInfo ExpertChoiceRouter<T>::info() {
  RouterInfo info{"expert_choice",
                  "each expert takes the tokens that want it most (moe/capacity_factor; 0 = 2)",
                  "Zhou et al. 2022, arXiv 2202.09368"};
  info.batch_coupled = true;
  info.balance_loss = false;
  info.own_capacity = true;
  info.defaults.balance = 0;
  return info;
}

template <class T>
ExpertChoiceRouter<T>::ExpertChoiceRouter(const RouterPlace& place, const RouterOptions&,
                                          ParameterStore<T>& store)
    : Router<T>(place, store, place.experts),
      factor_(place.capacity_factor > 0 ? place.capacity_factor : 2) {}

template <class T>
Routing<T> ExpertChoiceRouter<T>::route_logits(const StepContext& ctx, const Matrix<const T>& z,
                                               const Routing<T>* replay) const {
  const int tokens = static_cast<int>(z.extent(0)), experts = this->place_.experts;
  const double factor = factor_;
  require_shape("ExpertChoiceRouter", "logits", z, z.extent(0),
                static_cast<std::size_t>(experts));
  Routing<T> routing = make_token_choice<T>(ctx.space, *ctx.saved, tokens, experts, experts);
  routing.probability = ctx.saved->template matrix<T>(z.extent(0), z.extent(1));
  const Matrix<T> p = routing.probability;
  const Vector<int> expert = routing.expert;
  const Vector<T> weight = routing.weight;
  const bool replaying = replay != nullptr;
  const Vector<const int> replayed = replaying ? replay->expert : Vector<int>();
  if (replaying && replay->slots() != tokens * experts)
    fail("ExpertChoiceRouter", "the routing to replay is of another router");
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::expert_choice"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, tokens), KOKKOS_LAMBDA(const int t) {
        const detail::LogitRow<T> row(&z(t, 0), experts);
        detail::softmax_row(row, [](int) { return true; }, &p(t, 0));
        for (int e = 0; e < experts && replaying; ++e) {
          const int n = t * experts + e;
          expert(n) = replayed(n);
          weight(n) = replayed(n) < experts ? p(t, replayed(n)) : T(0);
        }
      });
  if (replaying) return routing;
  const RoutingGroups groups(ctx, this->place_.routing_group);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::expert_choice_select"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, groups.count * experts),
      KOKKOS_LAMBDA(const int i) {
        const int e = i % experts, begin = groups.begin(i / experts);
        const int count = groups.end(i / experts) - begin;
        detail::take_largest<T>(
            count, expert_capacity(count, experts, 1, factor),
            [&](int j) { return detail::order_key(p(begin + j, e)); },
            [&](int j, bool taken) {
              const int n = (begin + j) * experts + e;
              expert(n) = taken ? e : experts;
              weight(n) = taken ? p(begin + j, e) : T(0);
            });
      });
  return routing;
}

template <class T>
void ExpertChoiceRouter<T>::logits_backward(const StepContext& ctx, const Matrix<const T>&,
                                            const Routing<T>& routing,
                                            const RouterFeedback<T>& feedback,
                                            const Matrix<T>& d_z) const {
  const int experts = routing.experts;
  const Matrix<const T> p = routing.probability;
  const Vector<const int> expert = routing.expert;
  const Vector<const T> d_weight = feedback.d_weight;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::expert_choice_backward"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, routing.tokens),
      KOKKOS_LAMBDA(const int t) {
        // By slot: a replay may have put another expert there.
        T mean = 0;
        for (int n = t * experts; n < (t + 1) * experts; ++n) {
          if (expert(n) >= experts) continue;
          const T pull = p(t, expert(n)) * d_weight(n);
          d_z(t, expert(n)) += pull;
          mean += pull;
        }
        for (int e = 0; e < experts; ++e) d_z(t, e) -= p(t, e) * mean;
      });
}

template class ExpertChoiceRouter<float>;
template class ExpertChoiceRouter<double>;

}  // namespace kokomoe
