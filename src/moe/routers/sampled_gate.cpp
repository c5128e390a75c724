// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/detail/sampled_gate.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/moe/detail/logit_row.hpp"

namespace kokomoe::detail {

namespace {

constexpr int most_draws = 1 << 18;  // of one purpose for a token: see PhiloxStream

std::optional<Refusal> too_many_draws(const RouterPlace& place, const RouterOptions&) {
  if (place.k <= most_draws / place.experts) return {};
  return Refusal{"k", "k x experts must be at most " + std::to_string(most_draws) + ", not " +
                          std::to_string(place.k) + " x " + std::to_string(place.experts)};
}

/// Views and rules of one forward pass; the kernel's captures in one place.
template <class T>
struct Rounds {
  Matrix<const T> z;
  Matrix<T> p, balance;
  Matrix<unsigned char> kept;
  Vector<int> expert;
  Vector<T> weight, scale, gradient_weight;
  TokenDraws<T> draws;
  DistanceMask mask;
  ScaleLaw law;
  T inverse_temperature;
  int experts, k;
  bool training, sampling;
  // What is replayed: empty = nothing; old_kept may be empty on its own.
  Vector<const int> old_expert;
  Vector<const T> old_scale;
  Matrix<const unsigned char> old_kept;

  KOKKOS_INLINE_FUNCTION void token(int t) const {
    const bool replaying = old_expert.extent(0) != 0;
    for (int r = 0; r < k; ++r) {
      const int n = t * k + r;
      const RoundRow<T> row(&z(t, 0), experts, &expert(t * k), r);
      unsigned char* const keep = &kept(t, r * experts);
      for (int e = 0; e < experts; ++e)
        keep[e] = !row.taken(e) &&
                  (!replaying ? mask.keeps(row.value(e), row.maximum())
                              : old_kept.extent(0) == 0 || old_kept(t, r * experts + e) != 0);
      int chosen = row.argmax();
      T s = 1;
      if (replaying) {
        chosen = old_expert(n);
        s = old_scale(n);
      } else if (training) {
        if (sampling)
          chosen =
              draws.expert(t, row, r, inverse_temperature, [&](int e) { return keep[e] != 0; });
        s = law.draw(draws.coin_of(t, r), chosen == row.argmax());
      }
      const auto exponential = [&](int e) {
        return keep[e] != 0 ? Kokkos::exp((row.value(e) - row.maximum()) * inverse_temperature)
                            : T(0);
      };
      T sum = 0;
      for (int e = 0; e < experts; ++e) {
        const T value = exponential(e);
        if (r == 0) p(t, e) = value;
        sum += value;
      }
      if (r == 0)
        for (int e = 0; e < experts; ++e) p(t, e) /= sum;
      const T p_chosen = r == 0 ? p(t, chosen) : exponential(chosen) / sum;
      expert(n) = chosen;
      scale(n) = s;
      weight(n) = s * p_chosen;
      if (gradient_weight.extent(0) != 0) gradient_weight(n) = p_chosen;
    }
    if (balance.extent(0) != 0)
      softmax_row(
          LogitRow<T>(&z(t, 0), experts), [](int) { return true; }, &balance(t, 0));
  }
};

}  // namespace

std::vector<RouterOption> sampling_options(double mask_eps) {
  return {{"mask_eps", mask_eps,
           "experts whose relative distance to the best exceeds twice this are left out; 0 = no "
           "mask at all",
           0, 1e30},
          {"mask",
           std::string("maximum"),
           "distance relative to max(|z|, m) (maximum, the published code) or |z| + |m| (sum, "
           "GRIN's text)",
           0,
           0,
           {"maximum", "sum"}},
          {"sampling", true, "false: always the argmax"}};
}

RouterInfo sampled_gate_info(const SampledGateRule& rule) {
  RouterInfo info{rule.name, rule.summary, rule.paper, sampling_options(rule.mask_eps)};
  info.options.push_back(
      {"argmax_exception", rule.scale.argmax_exception, "the argmax always takes the full weight"});
  info.options.push_back({"grad_factor", rule.grad_factor,
                          "factor on the task's gradient to the chosen probability", -1e30, 1e30});
  info.options.push_back({"expert_grad",
                          std::string("weight"),
                          "what scales the expert's gradient: weight (published code) or "
                          "probability (GRIN)",
                          0,
                          0,
                          {"weight", "probability"}});
  if (rule.temperature > 0)
    info.options.push_back({"temperature", rule.temperature,
                            "p = softmax(z / temperature) in draw, weight and gradient; the "
                            "load-balance loss stays at 1",
                            1e-3, 1e30});
  info.takes_k = info.takes_capacity = true;
  info.defaults.output_gain = rule.output_gain;
  info.check = too_many_draws;
  return info;
}

template <class T>
SampledGateRouter<T>::SampledGateRouter(const SampledGateRule& rule, const RouterPlace& place,
                                        const RouterOptions& options, ParameterStore<T>& store)
    : Router<T>(place, store, place.experts),
      mask_(options),
      scale_(rule.scale),
      grad_factor_(options.real("grad_factor")),
      temperature_(rule.temperature > 0 ? options.real("temperature") : 1),
      sampling_(options.boolean("sampling")),
      probability_gradient_(options.text("expert_grad") == "probability"),
      unmasked_balance_(rule.unmasked_balance) {
  scale_.argmax_exception = options.boolean("argmax_exception");
}

template <class T>
Routing<T> SampledGateRouter<T>::route_logits(const StepContext& ctx, const Matrix<const T>& z,
                                              const Routing<T>* replay) const {
  const int tokens = static_cast<int>(z.extent(0)), experts = this->place_.experts;
  const int k = this->place_.k;
  const std::size_t rows = z.extent(0), columns = z.extent(1);
  require_shape("SampledGateRouter", "logits", z, rows, static_cast<std::size_t>(experts));
  Routing<T> routing = make_token_choice<T>(ctx.space, *ctx.saved, tokens, experts, k);
  const auto slots = static_cast<std::size_t>(routing.slots());
  const std::size_t all_rounds = columns * static_cast<std::size_t>(k);
  const auto replays = [&](const Routing<T>& old) {
    const bool rounds_kept = old.kept.extent(0) == rows && old.kept.extent(1) == all_rounds;
    return old.expert.extent(0) == slots && old.scale.extent(0) == slots &&
           (old.kept.extent(0) == 0 || rounds_kept);
  };
  if (replay != nullptr && !replays(*replay))
    fail("SampledGateRouter", "the routing to replay is of another router");
  routing.probability = ctx.saved->template matrix<T>(rows, columns);
  if (unmasked_balance_) routing.balance_probability = ctx.saved->template matrix<T>(rows, columns);
  routing.kept = ctx.saved->template matrix<unsigned char>(rows, all_rounds);
  routing.scale = ctx.saved->template vector<T>(slots);
  if (probability_gradient_ && ctx.training)
    routing.expert_gradient_weight = ctx.saved->template vector<T>(slots);

  Rounds<T> rounds{z,
                   routing.probability,
                   routing.balance_probability,
                   routing.kept,
                   routing.expert,
                   routing.weight,
                   routing.scale,
                   routing.expert_gradient_weight,
                   {ctx.tokens.sequence_index, ctx.tokens.position,
                    this->stream(ctx, Purpose::gumbel), this->stream(ctx, Purpose::coin)},
                   mask_,
                   scale_,
                   static_cast<T>(1 / temperature_),
                   experts,
                   k,
                   ctx.training,
                   sampling_,
                   {},
                   {},
                   {}};
  if (replay != nullptr) {
    rounds.old_expert = replay->expert;
    rounds.old_scale = replay->scale;
    rounds.old_kept = replay->kept;
  }
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::sampled_gate"),
      Kokkos::RangePolicy<ExecutionSpace, InArguments>(ctx.space, 0, tokens),
      KOKKOS_LAMBDA(const int t) { rounds.token(t); });
  return routing;
}

template <class T>
void SampledGateRouter<T>::logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                                           const Routing<T>& routing,
                                           const RouterFeedback<T>& feedback,
                                           const Matrix<T>& d_z) const {
  backward(ctx, z, routing, feedback, {}, d_z);
}

template <class T>
void SampledGateRouter<T>::backward(const StepContext& ctx, const Matrix<const T>& z,
                                    const Routing<T>& routing, const RouterFeedback<T>& feedback,
                                    const Vector<const T>& score, const Matrix<T>& d_z) const {
  const int experts = routing.experts, k = this->place_.k;
  const T factor = static_cast<T>(grad_factor_);
  const T inverse_temperature = static_cast<T>(1 / temperature_);
  const Matrix<const T> first = routing.probability, balance = routing.balance_probability;
  const Matrix<const T> d_probability = feedback.d_probability;
  const Matrix<const unsigned char> kept = routing.kept;
  const Vector<const int> expert = routing.expert;
  const Vector<const T> d_weight = feedback.d_weight;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::sampled_gate_backward"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, routing.tokens),
      KOKKOS_LAMBDA(const int t) {
        T* const out = &d_z(t, 0);
        const bool apart = balance.extent(0) != 0;
        add_softmax_backward(
            experts, &first(t, 0),
            [&](int e) {
              return (apart ? T(0) : probability_gradient(d_probability, t, e)) +
                     (e == expert(t * k) ? factor * d_weight(t * k) : T(0));
            },
            [&](int) { return inverse_temperature; }, out);
        if (apart && d_probability.extent(0) != 0)
          add_softmax_backward(
              experts, &balance(t, 0), [&](int e) { return d_probability(t, e); },
              [](int) { return T(1); }, out);
        for (int r = 0; r < k; ++r) {
          if (r == 0 && score.extent(0) == 0) continue;
          // Later rounds' probabilities are not stored.
          const RoundRow<T> row(&z(t, 0), experts, &expert(t * k), r);
          const int chosen = expert(t * k + r);
          const auto exponential = [&](int e) {
            return kept(t, r * experts + e) != 0
                       ? Kokkos::exp((row.value(e) - row.maximum()) * inverse_temperature)
                       : T(0);
          };
          T sum = 0;
          for (int e = 0; e < experts; ++e) sum += exponential(e);
          const T d_p = r > 0 ? factor * d_weight(t * k + r) : T(0);
          T d_log = exponential(chosen) / sum * d_p;
          if (score.extent(0) != 0) d_log += score(t);
          for (int e = 0; e < experts; ++e)
            out[e] +=
                inverse_temperature * d_log * ((e == chosen ? T(1) : T(0)) - exponential(e) / sum);
        }
      });
}

template <class T>
EstimatorInfo SampledGateRouter<T>::estimator() const {
  if (!sampling_) return {};
  return {Objective::scaled, scale_, false};
}

template class SampledGateRouter<float>;
template class SampledGateRouter<double>;

}  // namespace kokomoe::detail
