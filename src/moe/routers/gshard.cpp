// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/gshard.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/moe/detail/logit_row.hpp"

namespace kokomoe {

template <class T>
RouterInfo GShardRouter<T>::info() {
  RouterInfo info{"gshard", "the two most probable experts, the second at random",
                  "Lepikhin et al. 2020, arXiv 2006.16668",
                  {{"sampling", true, "false: the second expert always runs"}}};
  info.batch_coupled = true;
  info.takes_capacity = true;
  info.defaults.k = 2;
  return info;
}

template <class T>
GShardRouter<T>::GShardRouter(const RouterPlace& place, const RouterOptions& options,
                              ParameterStore<T>& store)
    : Router<T>(place, store, place.experts), sampling_(options.boolean("sampling")) {}

template <class T>
Routing<T> GShardRouter<T>::route_logits(const StepContext& ctx, const Matrix<const T>& z,
                                         const Routing<T>* replay) const {
  const int tokens = static_cast<int>(z.extent(0)), experts = this->place_.experts;
  const auto slots = 2 * z.extent(0);
  require_shape("GShardRouter", "logits", z, z.extent(0), static_cast<std::size_t>(experts));
  Routing<T> routing = make_token_choice<T>(ctx.space, *ctx.saved, tokens, experts, 2);
  routing.probability = ctx.saved->template matrix<T>(z.extent(0), z.extent(1));
  routing.counted = ctx.saved->template vector<unsigned char>(slots);
  const Routing<T> old = replay != nullptr ? *replay : Routing<T>();
  const bool replaying = replay != nullptr;
  const bool draw = ctx.training && sampling_ && !replaying;
  if (replaying && old.slots() != 2 * tokens)
    fail("GShardRouter", "the routing to replay is of another router");
  if (draw || old.dropped.extent(0) != 0)
    routing.dropped = ctx.saved->template vector<unsigned char>(slots);
  const Matrix<T> p = routing.probability;
  const Vector<int> expert = routing.expert;
  const Vector<T> weight = routing.weight;
  const Vector<unsigned char> dropped = routing.dropped, counted = routing.counted;
  const Vector<const std::uint32_t> sequence = ctx.tokens.sequence_index;
  const Vector<const int> position = ctx.tokens.position;
  const PhiloxStream stream = this->stream(ctx, Purpose::second_choice);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::gshard"),
      Kokkos::RangePolicy<ExecutionSpace, InArguments>(ctx.space, 0, tokens),
      KOKKOS_LAMBDA(const int t) {
        const detail::LogitRow<T> row(&z(t, 0), experts);
        for (int r = 0; r < 2; ++r)
          expert(2 * t + r) = replaying
                                  ? old.expert(2 * t + r)
                                  : detail::best_remaining(experts, &expert(2 * t), r,
                                                           [&](int e) { return row.value(e); });
        detail::softmax_row(row, [](int) { return true; }, &p(t, 0));
        const T first = p(t, expert(2 * t)), second = p(t, expert(2 * t + 1));
        weight(2 * t) = first / (first + second);
        weight(2 * t + 1) = second / (first + second);
        counted(2 * t) = 1;
        counted(2 * t + 1) = 0;
        for (int r = 0; r < 2 && dropped.extent(0) != 0; ++r)
          dropped(2 * t + r) = replaying ? old.dropped(2 * t + r) : 0;
        if (!draw) return;
        const T u =
            stream.template uniform<T>(sequence(t), static_cast<std::uint32_t>(position(t)), 0);
        dropped(2 * t + 1) = u < 2 * weight(2 * t + 1) ? 0 : 1;
      });
  return routing;
}

template <class T>
void GShardRouter<T>::logits_backward(const StepContext& ctx, const Matrix<const T>&,
                                      const Routing<T>& routing,
                                      const RouterFeedback<T>& feedback,
                                      const Matrix<T>& d_z) const {
  const int experts = routing.experts;
  const Matrix<const T> p = routing.probability, d_probability = feedback.d_probability;
  const Vector<const int> expert = routing.expert;
  const Vector<const T> weight = routing.weight, d_weight = feedback.d_weight;
  const Vector<const unsigned char> dropped = routing.dropped;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::gshard_backward"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, routing.tokens),
      KOKKOS_LAMBDA(const int t) {
        if (d_probability.extent(0) != 0)
          detail::add_softmax_backward(
              experts, &p(t, 0), [&](int e) { return d_probability(t, e); },
              [](int) { return T(1); }, &d_z(t, 0));
        // The weights are a softmax over two logits; who does not run has no say.
        const auto g = [&](int r) {
          const int n = 2 * t + r;
          return dropped.extent(0) != 0 && dropped(n) != 0 ? T(0) : d_weight(n);
        };
        const T difference = weight(2 * t) * weight(2 * t + 1) * (g(0) - g(1));
        d_z(t, expert(2 * t)) += difference;
        d_z(t, expert(2 * t + 1)) -= difference;
      });
}

template class GShardRouter<float>;
template class GShardRouter<double>;

}  // namespace kokomoe
