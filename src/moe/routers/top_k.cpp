// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/top_k.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/detail/jitter.hpp"
#include "kokomoe/moe/detail/logit_row.hpp"

namespace kokomoe {

template <class T>
RouterInfo TopKRouter<T>::info() {
  RouterInfo info{"top_k", "the k largest logits, softmax before or after the choice",
                  "GLaM, arXiv 2112.06905; Mixtral, arXiv 2401.04088",
                  {detail::jitter_option(),
                   {"softmax", std::string("before"),
                    "before: weights are probabilities over all experts; after: over the chosen",
                    0, 0, {"before", "after"}}}};
  info.takes_k = info.takes_capacity = true;
  return info;
}

template <class T>
TopKRouter<T>::TopKRouter(const RouterPlace& place, const RouterOptions& options,
                          ParameterStore<T>& store)
    : Router<T>(place, store, place.experts),
      jitter_(options.real("jitter")),
      before_(options.text("softmax") == "before") {}

template <class T>
Routing<T> TopKRouter<T>::route_logits(const StepContext& ctx, const Matrix<const T>& z,
                                       const Routing<T>* replay) const {
  const int tokens = static_cast<int>(z.extent(0)), experts = this->place_.experts;
  const int k = this->place_.k;
  const bool before = before_;
  require_shape("TopKRouter", "logits", z, z.extent(0), static_cast<std::size_t>(experts));
  Routing<T> routing = make_token_choice<T>(ctx.space, *ctx.saved, tokens, experts, k);
  routing.probability = ctx.saved->template matrix<T>(z.extent(0), z.extent(1));
  const Matrix<T> p = routing.probability;
  const Vector<int> expert = routing.expert;
  const Vector<T> weight = routing.weight;
  const Vector<const int> replayed = replay != nullptr ? replay->expert : Vector<int>();
  if (replay != nullptr && replay->slots() != tokens * k)
    fail("TopKRouter", "the routing to replay is of another router");
  const detail::Jitter<T> jitter(ctx, this->stream(ctx, Purpose::jitter), jitter_);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::top_k"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, tokens), KOKKOS_LAMBDA(const int t) {
        for (int e = 0; e < experts; ++e) p(t, e) = z(t, e) * jitter.factor(t, e);
        const detail::LogitRow<T> row(&p(t, 0), experts);
        for (int r = 0; r < k; ++r)
          expert(t * k + r) = replayed.extent(0) != 0
                                  ? replayed(t * k + r)
                                  : detail::best_remaining(experts, &expert(t * k), r,
                                                           [&](int e) { return row.value(e); });
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
        detail::softmax_row(row, [](int) { return true; }, &p(t, 0));
        if (before)
          for (int r = 0; r < k; ++r) weight(t * k + r) = p(t, expert(t * k + r));
      });
  return routing;
}

template <class T>
void TopKRouter<T>::logits_backward(const StepContext& ctx, const Matrix<const T>&,
                                    const Routing<T>& routing,
                                    const RouterFeedback<T>& feedback,
                                    const Matrix<T>& d_z) const {
  const int experts = routing.experts, k = this->place_.k;
  const bool before = before_;
  const Matrix<const T> p = routing.probability, d_probability = feedback.d_probability;
  const Vector<const int> expert = routing.expert;
  const Vector<const T> weight = routing.weight, d_weight = feedback.d_weight;
  const detail::Jitter<T> jitter(ctx, this->stream(ctx, Purpose::jitter), jitter_);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::top_k_backward"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, routing.tokens),
      KOKKOS_LAMBDA(const int t) {
        const auto g = [&](int e) {
          T sum = detail::probability_gradient(d_probability, t, e);
          if (before)
            for (int r = 0; r < k; ++r)
              if (expert(t * k + r) == e) sum += d_weight(t * k + r);
          return sum;
        };
        detail::add_softmax_backward(
            experts, &p(t, 0), g, [&](int e) { return jitter.factor(t, e); }, &d_z(t, 0));
        if (before) return;
        T mean = 0;
        for (int r = 0; r < k; ++r) mean += weight(t * k + r) * d_weight(t * k + r);
        for (int r = 0; r < k; ++r) {
          const int e = expert(t * k + r);
          d_z(t, e) +=
              jitter.factor(t, e) * weight(t * k + r) * (d_weight(t * k + r) - mean);
        }
      });
}

template class TopKRouter<float>;
template class TopKRouter<double>;

}  // namespace kokomoe
