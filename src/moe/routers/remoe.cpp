// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/remoe.hpp"

#include "kokomoe/core/column_sum.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/auxiliary_loss.hpp"

namespace kokomoe {

namespace {

/// (1, E) f_e of the micro-batch over all ranks. Collective.
template <class T>
Matrix<T> load_factors(const StepContext& ctx, const Routing<T>& routing, int k) {
  const int experts = routing.experts, tokens = routing.tokens;
  const Vector<const int> local = count_assignments<T>(ctx.space, *ctx.saved, routing);
  // Counts, and the tokens behind them.
  const Vector<double> counts = ctx.saved->vector<double>(static_cast<std::size_t>(experts) + 1);
  const Matrix<T> factors = ctx.saved->matrix<T>(1, static_cast<std::size_t>(experts));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::remoe_counts"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, experts + 1),
      KOKKOS_LAMBDA(const int e) { counts(e) = e < experts ? local(e) : tokens; });
  ctx.communicator->all_reduce_sum(ctx.space, counts);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::remoe_factors"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, experts), KOKKOS_LAMBDA(const int e) {
        factors(0, e) = counts(experts) > 0
                            ? static_cast<T>(counts(e) * experts / (k * counts(experts)))
                            : T(0);
      });
  return factors;
}

}  // namespace

template <class T>
RouterInfo RemoeRouter<T>::info() {
  RouterInfo info{"remoe", "every expert with a positive logit, kept to k a token by a moving L1 loss",
                  "Wang et al. 2024, arXiv 2412.14711",
                  {{"regularization", 1e-8, "lambda of the loss on weights at first", 0, 1e30},
                   {"growth", 1.2, "lambda is multiplied or divided by this after each update", 1,
                    1e30}}};
  info.takes_k = info.k_is_target = true;
  info.balance_loss = false;
  info.defaults.balance = 0;
  info.layout_free = false;
  return info;
}

template <class T>
RemoeRouter<T>::RemoeRouter(const RouterPlace& place, const RouterOptions& options,
                            ParameterStore<T>& store)
    : Router<T>(place, store, place.experts),
      lambda_(store.add({place.name + ".lambda",
                         {1},
                         Initializer::constant(options.real("regularization")),
                         false,
                         false,
                         true,
                         {"one"}})),
      growth_(options.real("growth")) {}

template <class T>
Routing<T> RemoeRouter<T>::route_logits(const StepContext& ctx, const Matrix<const T>& z,
                                        const Routing<T>* replay) const {
  const int tokens = static_cast<int>(z.extent(0)), experts = this->place_.experts;
  require_shape("RemoeRouter", "logits", z, z.extent(0), static_cast<std::size_t>(experts));
  Routing<T> routing = make_token_choice<T>(ctx.space, *ctx.saved, tokens, experts, experts);
  const Vector<int> expert = routing.expert;
  const Vector<T> weight = routing.weight;
  const Vector<const int> replayed = replay != nullptr ? replay->expert : Vector<int>();
  if (replay != nullptr && replay->slots() != tokens * experts)
    fail("RemoeRouter", "the routing to replay is of another router");
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::remoe"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, tokens * experts),
      KOKKOS_LAMBDA(const int n) {
        const int e = n % experts;
        const T value = z(n / experts, e);
        // NaN is active, so that the loss shows it.
        const bool active = replayed.extent(0) != 0 ? replayed(n) < experts : !(value <= T(0));
        expert(n) = active ? e : experts;
        weight(n) = active ? value : T(0);
      });
  if (ctx.training) routing.extra = load_factors<T>(ctx, routing, this->place_.k);
  return routing;
}

template <class T>
void RemoeRouter<T>::add_auxiliary_loss(const StepContext& ctx, const Routing<T>& routing,
                                        const Vector<double>& sum) const {
  if (routing.extra.extent(0) == 0) return;
  const int experts = routing.experts;
  ArenaScope scope(*ctx.scratch);
  const Vector<T> weights = ctx.scratch->template vector<T>(static_cast<std::size_t>(experts));
  column_sum<T>(ctx.space, *ctx.scratch,
                Matrix<const T>(routing.weight.data(), static_cast<std::size_t>(routing.tokens),
                                static_cast<std::size_t>(experts)),
                Matrix<const T>(), Vector<const T>(), T(0), weights);
  const Matrix<const T> factors = routing.extra;
  const Vector<const T> lambda = this->store_->value_vector(lambda_);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::remoe_loss"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, 1), KOKKOS_LAMBDA(const int) {
        double value = 0;
        for (int e = 0; e < experts; ++e)
          value += static_cast<double>(factors(0, e)) * static_cast<double>(weights(e));
        sum(0) += static_cast<double>(lambda(0)) * value;
      });
}

template <class T>
void RemoeRouter<T>::logits_backward(const StepContext& ctx, const Matrix<const T>&,
                                     const Routing<T>& routing,
                                     const RouterFeedback<T>& feedback,
                                     const Matrix<T>& d_z) const {
  const int experts = routing.experts;
  const bool regular = routing.extra.extent(0) != 0;
  const double tokens = ctx.update_tokens;
  const Vector<const int> expert = routing.expert;
  const Vector<const T> d_weight = feedback.d_weight;
  const Matrix<const T> factors = routing.extra;
  const Vector<const T> lambda = this->store_->value_vector(lambda_);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::remoe_backward"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, routing.tokens * experts),
      KOKKOS_LAMBDA(const int n) {
        const int e = expert(n);
        if (e >= experts) return;
        T gradient = d_weight(n);
        if (regular) gradient += lambda(0) * factors(0, e) / static_cast<T>(tokens);
        d_z(n / experts, e) += gradient;
      });
}

template <class T>
void RemoeRouter<T>::end_step(const StepContext& ctx, const RouterStatistics& statistics) {
  const int experts = this->place_.experts;
  const double target = this->place_.k * statistics.tokens;
  const T growth = static_cast<T>(growth_);
  const Vector<const double> counts = statistics.counts;
  const Vector<T> lambda = this->store_->value_vector(lambda_);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::remoe_lambda"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, 1), KOKKOS_LAMBDA(const int) {
        // (1 - k/E) - sparsity, times E tokens: whole numbers.
        double excess = -target;
        for (int e = 0; e < experts; ++e) excess += counts(e);
        T value = lambda(0);
        if (excess > 0) value *= growth;
        if (excess < 0) value /= growth;
        // Out of range it could not come back.
        if (Kokkos::isfinite(value) &&
            (value >= Kokkos::Experimental::norm_min_v<T> || lambda(0) == T(0)))
          lambda(0) = value;
      });
}

template class RemoeRouter<float>;
template class RemoeRouter<double>;

}  // namespace kokomoe
