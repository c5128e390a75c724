// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/sparsemixer.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/detail/logit_row.hpp"

namespace kokomoe {

namespace {

/// Views and rules of one forward pass; the kernel's captures in one place.
template <class T>
struct SparseMixerChoice {
  Matrix<const T> z;
  Matrix<T> p;
  Matrix<unsigned char> kept;
  Vector<int> expert;
  Vector<T> weight, scale;
  Vector<const std::uint32_t> sequence;
  Vector<const int> position;
  PhiloxStream gumbel, coin;
  T eps2;  ///< 2 mask_eps
  int experts;
  bool sum_mask, draw, argmax_exception;

  KOKKOS_INLINE_FUNCTION bool masked(T value, T maximum) const {
    const T size = Kokkos::abs(value);
    // 0 / 0 and inf / inf are NaN, compare false, and keep the expert.
    if (sum_mask) return maximum - value > eps2 * (size + Kokkos::abs(maximum));
    return (maximum - value) / (size > maximum ? size : maximum) > eps2;
  }

  KOKKOS_INLINE_FUNCTION void mask(int t, const detail::LogitRow<T>& row) const {
    for (int e = 0; e < experts; ++e) kept(t, e) = !masked(row.value(e), row.maximum());
  }

  /// Gumbel-max: argmax of z_e - log(-log u_e) over the kept experts is a draw from p.
  KOKKOS_INLINE_FUNCTION int sample(int t, const detail::LogitRow<T>& row) const {
    int best = -1;
    T best_score = 0;
    PhiloxBlock block{};
    for (int e = 0; e < experts; ++e) {
      if (e % 4 == 0)
        block = gumbel.block(sequence(t), static_cast<std::uint32_t>(position(t)),
                             static_cast<std::uint32_t>(e / 4));
      if (!kept(t, e)) continue;
      const T u = open_uniform<T>(block.word[e % 4]);
      const T score = row.value(e) - Kokkos::log(-Kokkos::log(u));
      // The last term: a NaN that came first gives way.
      if (best < 0 || score > best_score || (best_score != best_score && score == score)) {
        best = e;
        best_score = score;
      }
    }
    return best;
  }

  KOKKOS_INLINE_FUNCTION T draw_scale(int t, int choice, int argmax) const {
    if (argmax_exception && choice == argmax) return T(1);
    const T u = coin.template uniform<T>(sequence(t), static_cast<std::uint32_t>(position(t)), 0);
    return u > T(0.5) ? T(1) : T(0.5);
  }
};

}  // namespace

template <class T>
RouterInfo SparseMixerRouter<T>::info() {
  RouterInfo info{"sparsemixer",
          "one sampled expert; the router gradient by the midpoint rule (v1)",
          "Liu, Gao, Chen 2023, arXiv 2310.00811",
          {{"mask_eps", 0.1, "experts whose relative distance to the best exceeds twice this are "
                             "left out", 0, 1e30},
           {"mask", std::string("maximum"),
            "distance relative to max(|z|, m) (maximum, the published code) or |z| + |m| (sum, "
            "GRIN's text)", 0, 0, {"maximum", "sum"}},
           {"sampling", true, "false: always the argmax"},
           {"argmax_exception", true, "the argmax always takes the full weight"},
           {"grad_factor", 2.0, "factor on the task's gradient to the chosen probability",
            -1e30, 1e30},
           {"expert_grad", std::string("weight"),
            "what scales the expert's gradient: weight (published code) or probability (GRIN)",
            0, 0, {"weight", "probability"}}}};
  info.defaults.output_gain = true;
  return info;
}

template <class T>
SparseMixerRouter<T>::SparseMixerRouter(const RouterPlace& place, const RouterOptions& options,
                                        ParameterStore<T>& store)
    : Router<T>(place, store, place.experts),
      mask_eps_(options.real("mask_eps")),
      grad_factor_(options.real("grad_factor")),
      sampling_(options.boolean("sampling")),
      argmax_exception_(options.boolean("argmax_exception")),
      sum_mask_(options.text("mask") == "sum"),
      probability_gradient_(options.text("expert_grad") == "probability") {}

template <class T>
Routing<T> SparseMixerRouter<T>::route_logits(const StepContext& ctx, const Matrix<const T>& z,
                                              const Routing<T>* replay) const {
  const int tokens = static_cast<int>(z.extent(0)), experts = this->place_.experts;
  require_shape("SparseMixerRouter", "logits", z, z.extent(0), static_cast<std::size_t>(experts));
  const std::size_t rows = z.extent(0), columns = z.extent(1);
  Routing<T> routing = make_token_choice<T>(ctx.space, *ctx.saved, tokens, experts, 1);
  routing.probability = ctx.saved->template matrix<T>(rows, columns);
  routing.kept = ctx.saved->template matrix<unsigned char>(rows, columns);
  routing.scale = ctx.saved->template vector<T>(rows);
  const bool separate = probability_gradient_ && ctx.training;
  if (separate) routing.expert_gradient_weight = ctx.saved->template vector<T>(rows);
  const Vector<T> gradient_weight = routing.expert_gradient_weight;

  const SparseMixerChoice<T> choice{z,
                                    routing.probability,
                                    routing.kept,
                                    routing.expert,
                                    routing.weight,
                                    routing.scale,
                                    ctx.tokens.sequence_index,
                                    ctx.tokens.position,
                                    this->stream(ctx, Purpose::gumbel),
                                    this->stream(ctx, Purpose::coin),
                                    static_cast<T>(2 * mask_eps_),
                                    experts,
                                    sum_mask_,
                                    ctx.training && sampling_,
                                    argmax_exception_};
  const bool training = ctx.training, replaying = replay != nullptr;
  const Routing<T> old = replaying ? *replay : Routing<T>();
  if (replaying && (old.slots() != tokens || old.kept.extent(0) != rows ||
                    old.scale.extent(0) != rows))
    fail("SparseMixerRouter", "the routing to replay is of another router");
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::sparsemixer"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, tokens), KOKKOS_LAMBDA(const int t) {
        const detail::LogitRow<T> row(&choice.z(t, 0), experts);
        int chosen = row.argmax();
        T scale = 1;
        if (replaying) {
          for (int e = 0; e < experts; ++e) choice.kept(t, e) = old.kept(t, e);
          chosen = old.expert(t);
          scale = old.scale(t);
        } else {
          choice.mask(t, row);
          if (choice.draw) chosen = choice.sample(t, row);
          if (training) scale = choice.draw_scale(t, chosen, row.argmax());
        }
        T* const p = &choice.p(t, 0);
        detail::softmax_row(row, [&](int e) { return choice.kept(t, e) != 0; }, p);
        choice.expert(t) = chosen;
        choice.scale(t) = scale;
        choice.weight(t) = scale * p[chosen];
        if (separate) gradient_weight(t) = p[chosen];
      });
  return routing;
}

template <class T>
void SparseMixerRouter<T>::logits_backward(const StepContext& ctx, const Matrix<const T>&,
                                           const Routing<T>& routing,
                                           const RouterFeedback<T>& feedback,
                                           const Matrix<T>& d_z) const {
  const int experts = routing.experts;
  const T factor = static_cast<T>(grad_factor_);
  const Matrix<const T> p = routing.probability, d_probability = feedback.d_probability;
  const Vector<const int> expert = routing.expert;
  const Vector<const T> d_weight = feedback.d_weight;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::sparsemixer_backward"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, routing.tokens),
      KOKKOS_LAMBDA(const int t) {
        detail::add_softmax_backward(
            experts, &p(t, 0),
            [&](int e) {
              return detail::probability_gradient(d_probability, t, e) +
                     (e == expert(t) ? factor * d_weight(t) : T(0));
            },
            [](int) { return T(1); }, &d_z(t, 0));
      });
}

template class SparseMixerRouter<float>;
template class SparseMixerRouter<double>;

}  // namespace kokomoe
