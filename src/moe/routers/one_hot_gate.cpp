// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/detail/one_hot_gate.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/moe/detail/logit_row.hpp"

namespace kokomoe::detail {

RouterInfo one_hot_gate_info(const OneHotGateRule& rule) {
  RouterInfo info{rule.name, rule.summary, rule.paper, sampling_options(0.1)};
  info.options.push_back(
      {"grad_factor", 1.0, "factor on the task's gradient to the logits", -1e30, 1e30});
  if (rule.reinmax)
    info.options.push_back({"temperature", 1.0,
                            "of the softmax that is averaged with the choice in backward", 1e-3,
                            1e30});
  return info;
}

template <class T>
OneHotGateRouter<T>::OneHotGateRouter(const OneHotGateRule& rule, const RouterPlace& place,
                                      const RouterOptions& options, ParameterStore<T>& store)
    : Router<T>(place, store, place.experts),
      mask_(options),
      grad_factor_(options.real("grad_factor")),
      temperature_(rule.reinmax ? options.real("temperature") : 1),
      sampling_(options.boolean("sampling")),
      reinmax_(rule.reinmax) {}

template <class T>
Routing<T> OneHotGateRouter<T>::route_logits(const StepContext& ctx, const Matrix<const T>& z,
                                             const Routing<T>* replay) const {
  const int tokens = static_cast<int>(z.extent(0)), experts = this->place_.experts;
  const std::size_t rows = z.extent(0), columns = z.extent(1);
  require_shape("OneHotGateRouter", "logits", z, rows, static_cast<std::size_t>(experts));
  const int slots = replay != nullptr ? replay->slots_per_token : ctx.training ? experts : 1;
  const std::size_t all = rows * static_cast<std::size_t>(slots);
  if (replay != nullptr && ((slots != experts && slots != 1) || replay->expert.extent(0) != all ||
                            replay->scale.extent(0) != all ||
                            (replay->kept.extent(0) != 0 && (replay->kept.extent(0) != rows ||
                                                             replay->kept.extent(1) != columns))))
    fail("OneHotGateRouter", "the routing to replay is of another router");
  Routing<T> routing = make_token_choice<T>(ctx.space, *ctx.saved, tokens, experts, slots);
  routing.probability = ctx.saved->template matrix<T>(rows, columns);
  routing.kept = ctx.saved->template matrix<unsigned char>(rows, columns);
  routing.scale = ctx.saved->template vector<T>(all);
  if (slots > 1) routing.counted = ctx.saved->template vector<unsigned char>(all);

  const Matrix<T> p = routing.probability;
  const Matrix<unsigned char> kept = routing.kept;
  const Vector<unsigned char> counted = routing.counted;
  const Vector<int> expert = routing.expert;
  const Vector<T> weight = routing.weight, scale = routing.scale;
  const DistanceMask mask = mask_;
  const TokenDraws<T> draws{ctx.tokens.sequence_index, ctx.tokens.position,
                            this->stream(ctx, Purpose::gumbel), this->stream(ctx, Purpose::coin)};
  const bool replaying = replay != nullptr, sampling = ctx.training && sampling_;
  const Routing<T> old = replaying ? *replay : Routing<T>();
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::one_hot_gate"),
      Kokkos::RangePolicy<ExecutionSpace, InArguments>(ctx.space, 0, tokens),
      KOKKOS_LAMBDA(const int t) {
        const RoundRow<T> row(&z(t, 0), experts, nullptr, 0);
        for (int e = 0; e < experts; ++e)
          kept(t, e) = !replaying ? mask.keeps(row.value(e), row.maximum())
                                  : old.kept.extent(0) == 0 || old.kept(t, e) != 0;
        const auto keep = [&](int e) { return kept(t, e) != 0; };
        softmax_row(LogitRow<T>(&z(t, 0), experts), keep, &p(t, 0));
        const int chosen =
            sampling && !replaying ? draws.expert(t, row, 0, T(1), keep) : row.argmax();
        for (int i = 0; i < slots; ++i) {
          const int n = t * slots + i;
          const int e = slots > 1 ? i : replaying ? old.expert(n) : chosen;
          const T one_hot = replaying ? old.scale(n) : e == chosen ? T(1) : T(0);
          expert(n) = e;
          scale(n) = one_hot;
          // A NaN among the logits shows in the output.
          weight(n) = p(t, e) != p(t, e) ? p(t, e) : one_hot;
          if (slots > 1) counted(n) = one_hot != T(0);
        }
      });
  return routing;
}

template <class T>
void OneHotGateRouter<T>::logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                                          const Routing<T>& routing,
                                          const RouterFeedback<T>& feedback,
                                          const Matrix<T>& d_z) const {
  const int experts = routing.experts;
  if (routing.tokens > 0 && routing.slots_per_token != experts)
    fail("OneHotGateRouter", "backward needs the routing of a training step");
  const T factor = static_cast<T>(grad_factor_);
  const T inverse_temperature = static_cast<T>(1 / temperature_);
  const bool reinmax = reinmax_;
  const Matrix<const T> p = routing.probability, d_probability = feedback.d_probability;
  const Matrix<const unsigned char> kept = routing.kept;
  const Vector<const T> scale = routing.scale, d_weight = feedback.d_weight;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::one_hot_gate_backward"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, routing.tokens),
      KOKKOS_LAMBDA(const int t) {
        T* const out = &d_z(t, 0);
        const T* const slot_gradient = &d_weight(t * experts);
        const T* const one_hot = &scale(t * experts);
        T mean = 0, number = 0;
        for (int e = 0; e < experts; ++e) {
          if (kept(t, e) == 0) continue;
          mean += slot_gradient[e];
          number += T(1);
        }
        mean /= number;
        const auto g = [&](int e) { return factor * (slot_gradient[e] - mean); };
        const T share = reinmax ? T(-0.5) : T(1);
        add_softmax_backward(
            experts, &p(t, 0),
            [&](int e) { return probability_gradient(d_probability, t, e) + share * g(e); },
            [](int) { return T(1); }, out);
        if (!reinmax) return;
        const LogitRow<T> row(&z(t, 0), experts);
        const auto exponential = [&](int e) {
          return kept(t, e) != 0 ? Kokkos::exp((row.value(e) - row.maximum()) * inverse_temperature)
                                 : T(0);
        };
        T sum = 0;
        for (int e = 0; e < experts; ++e) sum += exponential(e);
        const auto pi = [&](int e) { return (exponential(e) / sum + one_hot[e]) / T(2); };
        T mixed = 0;
        for (int e = 0; e < experts; ++e) mixed += pi(e) * g(e);
        for (int e = 0; e < experts; ++e) out[e] += T(2) * pi(e) * (g(e) - mixed);
      });
}

template <class T>
EstimatorInfo OneHotGateRouter<T>::estimator() const {
  if (!sampling_) return {};
  return {Objective::plain, {}, false};
}

template class OneHotGateRouter<float>;
template class OneHotGateRouter<double>;

}  // namespace kokomoe::detail
