// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/top_k.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/moe/detail/logit_row.hpp"

namespace kokomoe {

namespace detail {

template <class T>
Routing<T> route_top_k(const StepContext& ctx, const char* who, const TopKRule& rule,
                       const Jitter<T>& jitter, const Matrix<const T>& z,
                       const Routing<T>* replay) {
  const int tokens = static_cast<int>(z.extent(0)), experts = rule.experts, k = rule.k;
  const bool before = rule.before;
  require_shape(who, "logits", z, z.extent(0), static_cast<std::size_t>(experts));
  Routing<T> routing = make_token_choice<T>(ctx.space, *ctx.saved, tokens, experts, k);
  routing.probability = ctx.saved->template matrix<T>(z.extent(0), z.extent(1));
  const Matrix<T> p = routing.probability;
  const Vector<int> expert = routing.expert;
  const Vector<T> weight = routing.weight;
  const Vector<const int> replayed = replay != nullptr ? replay->expert : Vector<int>();
  if (replay != nullptr && replay->slots() != tokens * k)
    fail(who, "the routing to replay is of another router");
  ArenaScope scope(*ctx.scratch);
  const GroupChoice<T> groups(ctx, rule.groups, z.extent(0));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::top_k"),
      Kokkos::RangePolicy<ExecutionSpace, InArguments>(ctx.space, 0, tokens),
      KOKKOS_LAMBDA(const int t) {
        for (int e = 0; e < experts; ++e) p(t, e) = z(t, e) * jitter.factor(t, e);
        const LogitRow<T> row(&p(t, 0), experts);
        // Sums of probabilities, not of logits; a best one alone is best by its logit.
        groups.choose(t, [&](int e) {
          return groups.limit.summed > 1 ? Kokkos::exp(row.value(e) - row.maximum()) : row.value(e);
        });
        // Groups that were left out lose to everything, like NaN.
        const auto value = [&](int e) {
          return groups.allows(t, e) ? row.value(e) : Kokkos::Experimental::quiet_NaN_v<T>;
        };
        for (int r = 0; r < k; ++r)
          expert(t * k + r) = replayed.extent(0) != 0
                                  ? replayed(t * k + r)
                                  : best_remaining(experts, &expert(t * k), r, value);
        if (!before) {
          T largest = row.value(expert(t * k)), sum = 0;
          for (int r = 1; r < k; ++r) {
            const T v = row.value(expert(t * k + r));
            largest = v > largest ? v : largest;
          }
          for (int r = 0; r < k; ++r) {
            weight(t * k + r) = Kokkos::exp(row.value(expert(t * k + r)) - largest);
            sum += weight(t * k + r);
          }
          for (int r = 0; r < k; ++r) weight(t * k + r) /= sum;
        }
        softmax_row(
            row, [](int) { return true; }, &p(t, 0));
        if (before)
          for (int r = 0; r < k; ++r) weight(t * k + r) = p(t, expert(t * k + r));
      });
  return routing;
}

template <class T>
void top_k_backward(const StepContext& ctx, const TopKRule& rule, const Jitter<T>& jitter,
                    const Routing<T>& routing, const Vector<const T>& d_weight,
                    const Matrix<const T>& d_probability, const Matrix<T>& d_z) {
  const int experts = rule.experts, k = rule.k;
  const bool before = rule.before;
  const Matrix<const T> p = routing.probability;
  const Vector<const int> expert = routing.expert;
  const Vector<const T> weight = routing.weight;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::top_k_backward"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, routing.tokens),
      KOKKOS_LAMBDA(const int t) {
        const auto g = [&](int e) {
          T sum = probability_gradient(d_probability, t, e);
          if (before)
            for (int r = 0; r < k; ++r)
              if (expert(t * k + r) == e) sum += d_weight(t * k + r);
          return sum;
        };
        add_softmax_backward(
            experts, &p(t, 0), g, [&](int e) { return jitter.factor(t, e); }, &d_z(t, 0));
        if (before) return;
        T mean = 0;
        for (int r = 0; r < k; ++r) mean += weight(t * k + r) * d_weight(t * k + r);
        for (int r = 0; r < k; ++r) {
          const int e = expert(t * k + r);
          d_z(t, e) += jitter.factor(t, e) * weight(t * k + r) * (d_weight(t * k + r) - mean);
        }
      });
}

#define KOKOMOE_INSTANTIATE(T)                                                                     \
  template Routing<T> route_top_k<T>(const StepContext&, const char*, const TopKRule&,             \
                                     const Jitter<T>&, const Matrix<const T>&, const Routing<T>*); \
  template void top_k_backward<T>(const StepContext&, const TopKRule&, const Jitter<T>&,           \
                                  const Routing<T>&, const Vector<const T>&,                       \
                                  const Matrix<const T>&, const Matrix<T>&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace detail

template <class T>
RouterInfo TopKRouter<T>::info() {
  RouterInfo info{"top_k",
                  "the k largest logits, softmax before or after the choice",
                  "GLaM, arXiv 2112.06905; Mixtral, arXiv 2401.04088",
                  {detail::jitter_option(),
                   {"softmax",
                    std::string("before"),
                    "before: weights are probabilities over all experts; after: over the chosen",
                    0,
                    0,
                    {"before", "after"}}}};
  for (RouterOption& option : detail::group_options("best"))
    info.options.push_back(std::move(option));
  info.takes_k = info.takes_capacity = true;
  info.check = detail::check_groups;
  return info;
}

template <class T>
TopKRouter<T>::TopKRouter(const RouterPlace& place, const RouterOptions& options,
                          ParameterStore<T>& store)
    : Router<T>(place, store, place.experts),
      jitter_(options.real("jitter")),
      rule_{place.experts, place.k, options.text("softmax") == "before",
            detail::GroupLimit(place, options)} {}

template <class T>
Routing<T> TopKRouter<T>::route_logits(const StepContext& ctx, const Matrix<const T>& z,
                                       const Routing<T>* replay) const {
  const detail::Jitter<T> jitter(ctx, this->stream(ctx, Purpose::jitter), jitter_);
  return detail::route_top_k<T>(ctx, "TopKRouter", rule_, jitter, z, replay);
}

template <class T>
void TopKRouter<T>::logits_backward(const StepContext& ctx, const Matrix<const T>&,
                                    const Routing<T>& routing, const RouterFeedback<T>& feedback,
                                    const Matrix<T>& d_z) const {
  const detail::Jitter<T> jitter(ctx, this->stream(ctx, Purpose::jitter), jitter_);
  detail::top_k_backward<T>(ctx, rule_, jitter, routing, feedback.d_weight, feedback.d_probability,
                            d_z);
}

template class TopKRouter<float>;
template class TopKRouter<double>;

}  // namespace kokomoe
