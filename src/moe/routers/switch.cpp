// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/switch.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/detail/jitter.hpp"
#include "kokomoe/moe/detail/logit_row.hpp"

namespace kokomoe {

template <class T>
RouterInfo SwitchRouter<T>::info() {
  RouterInfo info{"switch", "the most probable expert, weighted by its probability",
                  "Fedus et al. 2021, arXiv 2101.03961", {detail::jitter_option()}};
  info.takes_capacity = true;
  return info;
}

template <class T>
SwitchRouter<T>::SwitchRouter(const RouterPlace& place, const RouterOptions& options,
                              ParameterStore<T>& store)
    : Router<T>(place, store, place.experts), jitter_(options.real("jitter")) {}

template <class T>
Routing<T> SwitchRouter<T>::route_logits(const StepContext& ctx, const Matrix<const T>& z,
                                         const Routing<T>* replay) const {
  const int tokens = static_cast<int>(z.extent(0)), experts = this->place_.experts;
  require_shape("SwitchRouter", "logits", z, z.extent(0), static_cast<std::size_t>(experts));
  Routing<T> routing = make_token_choice<T>(ctx.space, *ctx.saved, tokens, experts, 1);
  routing.probability = ctx.saved->template matrix<T>(z.extent(0), z.extent(1));
  const Matrix<T> p = routing.probability;
  const Vector<int> expert = routing.expert;
  const Vector<T> weight = routing.weight;
  const Vector<const int> replayed = replay != nullptr ? replay->expert : Vector<int>();
  if (replay != nullptr && replay->slots() != tokens)
    fail("SwitchRouter", "the routing to replay is of another router");
  const detail::Jitter<T> jitter(ctx, this->stream(ctx, Purpose::jitter), jitter_);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::switch"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, tokens), KOKKOS_LAMBDA(const int t) {
        for (int e = 0; e < experts; ++e) p(t, e) = z(t, e) * jitter.factor(t, e);
        const detail::LogitRow<T> row(&p(t, 0), experts);
        const int choice = replayed.extent(0) != 0 ? replayed(t) : row.argmax();
        detail::softmax_row(row, [](int) { return true; }, &p(t, 0));
        expert(t) = choice;
        weight(t) = p(t, choice);
      });
  return routing;
}

template <class T>
void SwitchRouter<T>::logits_backward(const StepContext& ctx, const Matrix<const T>&,
                                      const Routing<T>& routing,
                                      const RouterFeedback<T>& feedback,
                                      const Matrix<T>& d_z) const {
  const int experts = routing.experts;
  const Matrix<const T> p = routing.probability, d_probability = feedback.d_probability;
  const Vector<const int> expert = routing.expert;
  const Vector<const T> d_weight = feedback.d_weight;
  const detail::Jitter<T> jitter(ctx, this->stream(ctx, Purpose::jitter), jitter_);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::switch_backward"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, routing.tokens),
      KOKKOS_LAMBDA(const int t) {
        const auto g = [&](int e) {
          return detail::probability_gradient(d_probability, t, e) +
                 (e == expert(t) ? d_weight(t) : T(0));
        };
        detail::add_softmax_backward(
            experts, &p(t, 0), g, [&](int e) { return jitter.factor(t, e); }, &d_z(t, 0));
      });
}

template class SwitchRouter<float>;
template class SwitchRouter<double>;

}  // namespace kokomoe
