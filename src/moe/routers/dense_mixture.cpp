// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/dense_mixture.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/detail/logit_row.hpp"

namespace kokomoe {

template <class T>
RouterInfo DenseMixtureRouter<T>::info() {
  return {"dense_mixture", "all experts, weighted by their probabilities (for study: costs E)",
          "Jacobs et al. 1991, doi 10.1162/neco.1991.3.1.79"};
}

template <class T>
DenseMixtureRouter<T>::DenseMixtureRouter(const RouterPlace& place, const RouterOptions&,
                                          ParameterStore<T>& store)
    : Router<T>(place, store, place.experts) {}

template <class T>
Routing<T> DenseMixtureRouter<T>::route_logits(const StepContext& ctx, const Matrix<const T>& z,
                                               const Routing<T>*) const {
  const int tokens = static_cast<int>(z.extent(0)), experts = this->place_.experts;
  require_shape("DenseMixtureRouter", "logits", z, z.extent(0),
                static_cast<std::size_t>(experts));
  Routing<T> routing = make_token_choice<T>(ctx.space, *ctx.saved, tokens, experts, experts);
  routing.probability = ctx.saved->template matrix<T>(z.extent(0), z.extent(1));
  const Matrix<T> p = routing.probability;
  const Vector<int> expert = routing.expert;
  const Vector<T> weight = routing.weight;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::dense_mixture"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, tokens), KOKKOS_LAMBDA(const int t) {
        const detail::LogitRow<T> row(&z(t, 0), experts);
        detail::softmax_row(row, [](int) { return true; }, &p(t, 0));
        for (int e = 0; e < experts; ++e) {
          expert(t * experts + e) = e;
          weight(t * experts + e) = p(t, e);
        }
      });
  return routing;
}

template <class T>
void DenseMixtureRouter<T>::logits_backward(const StepContext& ctx, const Matrix<const T>&,
                                            const Routing<T>& routing,
                                            const RouterFeedback<T>& feedback,
                                            const Matrix<T>& d_z) const {
  const int experts = routing.experts;
  const Matrix<const T> p = routing.probability, d_probability = feedback.d_probability;
  const Vector<const T> d_weight = feedback.d_weight;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::dense_mixture_backward"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, routing.tokens),
      KOKKOS_LAMBDA(const int t) {
        detail::add_softmax_backward(
            experts, &p(t, 0),
            [&](int e) {
              return detail::probability_gradient(d_probability, t, e) + d_weight(t * experts + e);
            },
            [](int) { return T(1); }, &d_z(t, 0));
      });
}

template class DenseMixtureRouter<float>;
template class DenseMixtureRouter<double>;

}  // namespace kokomoe
