// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/noisy_top_k.hpp"

#include "kokomoe/core/column_sum.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/gemm.hpp"
#include "kokomoe/moe/detail/logit_row.hpp"

namespace kokomoe {

namespace {

template <class T>
KOKKOS_INLINE_FUNCTION T softplus(T y) {
  return (y > T(0) ? y : T(0)) + Kokkos::log1p(Kokkos::exp(-Kokkos::abs(y)));
}

/// The derivative of softplus.
template <class T>
KOKKOS_INLINE_FUNCTION T sigmoid(T y) {
  const T small = Kokkos::exp(-Kokkos::abs(y));
  return (y > T(0) ? T(1) : small) / (T(1) + small);
}

/// Routing::extra of this router, (T + 3, E): the noise of each token and expert; what an expert's
/// importance and its load add to the loss, by token; the loss itself. Without losses the first T rows
/// alone, in evaluation nothing.
template <class T>
struct Extra {
  Matrix<T> rows;
  int tokens = 0;
  bool noisy = false, losses = false;

  Extra(const Matrix<T>& extra, int tokens_)
      : rows(extra),
        tokens(tokens_),
        noisy(extra.extent(1) != 0),
        losses(noisy && static_cast<int>(extra.extent(0)) > tokens_) {}
  KOKKOS_INLINE_FUNCTION T noise(int t, int e) const { return noisy ? rows(t, e) : T(0); }
  KOKKOS_INLINE_FUNCTION T& importance(int e) const { return rows(tokens, e); }
  KOKKOS_INLINE_FUNCTION T& load(int e) const { return rows(tokens + 1, e); }
  KOKKOS_INLINE_FUNCTION T& loss() const { return rows(tokens + 2, 0); }
};

/// Draws the noise, or takes it from a routing to replay.
template <class T>
void fill_noise(const StepContext& ctx, const PhiloxStream& stream, const Routing<T>* replay,
                int experts, const Matrix<T>& noise) {
  const Matrix<const T> replayed = replay != nullptr ? replay->extra : Matrix<T>();
  const Vector<const std::uint32_t> sequence = ctx.tokens.sequence_index;
  const Vector<const int> position = ctx.tokens.position;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::noise"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, ctx.tokens.tokens),
      KOKKOS_LAMBDA(const int t) {
        PhiloxBlock block{};
        for (int e = 0; e < experts; ++e) {
          if (replayed.extent(1) != 0) {
            noise(t, e) = replayed(t, e);
            continue;
          }
          // Box-Muller, two normals a block.
          if (e % 2 == 0)
            block = stream.block(sequence(t), static_cast<std::uint32_t>(position(t)),
                                 static_cast<std::uint32_t>(e / 2));
          const T u = open_uniform<T>(block.word[2 * (e % 2)]);
          const T v = open_uniform<T>(block.word[2 * (e % 2) + 1]);
          noise(t, e) =
              Kokkos::sqrt(T(-2) * Kokkos::log(u)) * Kokkos::cos(T(2 * Kokkos::numbers::pi) * v);
        }
      });
}

/// h = z + n softplus(y).
template <class T>
void noisy_logits(const ExecutionSpace& space, const Matrix<const T>& z, const Extra<T>& extra,
                  const Matrix<T>& h) {
  const int experts = static_cast<int>(h.extent(1));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::noisy_logits"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, h.extent(0)), KOKKOS_LAMBDA(const int t) {
        for (int e = 0; e < experts; ++e)
          h(t, e) = extra.noisy ? z(t, e) + extra.noise(t, e) * softplus(z(t, experts + e))
                                : z(t, e);
      });
}

/// Whether an expert is among a token's k, were its noise drawn again.
template <class T>
struct Chance {
  Matrix<const T> z, h;
  Vector<const int> expert;
  int experts, k;

  /// The best expert that was not chosen: what a chosen one must beat.
  KOKKOS_INLINE_FUNCTION int runner_up(int t) const {
    return detail::best_remaining(experts, &expert(t * k), k, [&](int e) { return h(t, e); });
  }
  /// The last one chosen: what the others must beat.
  KOKKOS_INLINE_FUNCTION int last(int t) const { return expert(t * k + k - 1); }
  KOKKOS_INLINE_FUNCTION bool chosen(int t, int e) const {
    for (int r = 0; r < k; ++r)
      if (expert(t * k + r) == e) return true;
    return false;
  }
  /// How many deviations the logit is above the threshold.
  KOKKOS_INLINE_FUNCTION T distance(int t, int e, int rival) const {
    return (z(t, e) - h(t, rival)) / softplus(z(t, experts + e));
  }
};

/// gate(t, e): weight; chance(t, e): P_te, 0 where infinities leave it undefined.
template <class T>
void gates_and_chances(const ExecutionSpace& space, const Chance<T>& rule,
                       const Vector<const T>& weight, const Matrix<T>& gate,
                       const Matrix<T>& chance) {
  const int experts = rule.experts, k = rule.k;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::noisy_chances"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, gate.extent(0)), KOKKOS_LAMBDA(const int t) {
        for (int e = 0; e < experts; ++e) gate(t, e) = T(0);
        for (int r = 0; r < k; ++r) gate(t, rule.expert(t * k + r)) = weight(t * k + r);
        const int runner_up = k < experts ? rule.runner_up(t) : 0, last = rule.last(t);
        for (int e = 0; e < experts; ++e) {
          T p = 1;
          if (k < experts) {
            const T u = rule.distance(t, e, rule.chosen(t, e) ? runner_up : last);
            p = T(0.5) * Kokkos::erfc(-u * T(Kokkos::numbers::sqrt2 / 2));
          }
          chance(t, e) = p == p ? p : T(0);
        }
      });
}

/// Adds weight CV^2 of sums (E) to the loss and writes its gradient to each sum, times `tokens`.
template <class T, class Out>
KOKKOS_INLINE_FUNCTION double squared_variation(const double* sums, int experts, double weight,
                                                double tokens, const Out& out) {
  double total = 0, spread = 0, squares = 0;
  for (int e = 0; e < experts; ++e) {
    total += sums[e];
    squares += sums[e] * sums[e];
  }
  const double mean = total / experts;
  for (int e = 0; e < experts; ++e) {
    spread += (sums[e] - mean) * (sums[e] - mean);
    // E sum x^2 / (sum x)^2 - 1, differentiated.
    out(e) = total > 0 ? static_cast<T>(tokens * weight * 2 * experts / (total * total) *
                                        (sums[e] - squares / total))
                       : T(0);
  }
  return total > 0 ? weight * spread / experts / (mean * mean) : 0;
}

/// Fills the losses of `extra`. Collective.
template <class T>
void find_losses(const StepContext& ctx, const Chance<T>& rule, const Vector<const T>& weight,
                 double importance, double load, const Extra<T>& extra) {
  const int experts = rule.experts, tokens = extra.tokens;
  const auto columns = static_cast<std::size_t>(experts);
  const Matrix<T> gate = ctx.scratch->matrix<T>(static_cast<std::size_t>(tokens), columns);
  const Matrix<T> chance = ctx.scratch->matrix<T>(static_cast<std::size_t>(tokens), columns);
  gates_and_chances<T>(ctx.space, rule, weight, gate, chance);
  const Vector<T> local = ctx.scratch->vector<T>(2 * columns);
  column_sum<T>(ctx.space, *ctx.scratch, gate, Matrix<const T>(), Vector<const T>(), T(0),
                Vector<T>(local.data(), columns));
  column_sum<T>(ctx.space, *ctx.scratch, chance, Matrix<const T>(), Vector<const T>(), T(0),
                Vector<T>(local.data() + columns, columns));
  // Importance, load and the tokens behind them.
  const Vector<double> sums = ctx.scratch->vector<double>(2 * columns + 1);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::noisy_sums"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, 2 * experts + 1),
      KOKKOS_LAMBDA(const int i) {
        sums(i) = i < 2 * experts ? static_cast<double>(local(i)) : tokens;
      });
  ctx.communicator->all_reduce_sum(ctx.space, sums);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::noisy_losses"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, 1), KOKKOS_LAMBDA(const int) {
        const double all = sums(2 * experts);
        double loss = squared_variation<T>(&sums(0), experts, importance, all,
                                           [&](int e) -> T& { return extra.importance(e); });
        loss += squared_variation<T>(&sums(experts), experts, load, all,
                                     [&](int e) -> T& { return extra.load(e); });
        extra.loss() = static_cast<T>(loss);
      });
}

/// d_weight plus the importance loss' share.
template <class T>
void add_importance(const ExecutionSpace& space, const Extra<T>& extra,
                    const Vector<const int>& expert, double update_tokens,
                    const Vector<const T>& d_weight, const Vector<T>& sum) {
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::noisy_importance"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, sum.extent(0)), KOKKOS_LAMBDA(const int n) {
        sum(n) = d_weight(n) + extra.importance(expert(n)) / static_cast<T>(update_tokens);
      });
}

/// d_h (T, E), gradients to h, and the load loss to both halves of d_z.
template <class T>
void spread_gradient(const ExecutionSpace& space, const Chance<T>& rule, const Extra<T>& extra,
                     double update_tokens, const Matrix<T>& d_h, const Matrix<T>& d_z) {
  const int experts = rule.experts;
  const bool loaded = extra.losses && rule.k < experts;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::noisy_spread"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, d_h.extent(0)), KOKKOS_LAMBDA(const int t) {
        if (loaded) {
          const int runner_up = rule.runner_up(t), last = rule.last(t);
          for (int e = 0; e < experts; ++e) {
            const int rival = rule.chosen(t, e) ? runner_up : last;
            const T u = rule.distance(t, e, rival), y = rule.z(t, experts + e);
            // Far away, and where infinities leave it undefined, nothing moves.
            if (!(Kokkos::abs(u) < T(38))) continue;
            const T density = Kokkos::exp(T(-0.5) * u * u) *
                              T(Kokkos::numbers::inv_sqrtpi / Kokkos::numbers::sqrt2);
            const T slope = extra.load(e) / static_cast<T>(update_tokens) * density / softplus(y);
            d_z(t, e) += slope;
            d_h(t, rival) -= slope;
            d_z(t, experts + e) -= slope * u * sigmoid(y);
          }
        }
        for (int e = 0; e < experts; ++e) {
          d_z(t, e) += d_h(t, e);
          if (extra.noisy)
            d_z(t, experts + e) += d_h(t, e) * extra.noise(t, e) * sigmoid(rule.z(t, experts + e));
        }
      });
}

/// both(t, :) = [ a(t, :) | b(t, :) ].
template <class T>
void join(const ExecutionSpace& space, const Matrix<const T>& a, const Matrix<const T>& b,
          const Matrix<T>& both) {
  const int experts = static_cast<int>(a.extent(1));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::noisy_join"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, a.extent(0)), KOKKOS_LAMBDA(const int t) {
        for (int e = 0; e < experts; ++e) {
          both(t, e) = a(t, e);
          both(t, experts + e) = b(t, e);
        }
      });
}

/// The reverse of join.
template <class T>
void split(const ExecutionSpace& space, const Matrix<const T>& both, const Matrix<T>& a,
           const Matrix<T>& b) {
  const int experts = static_cast<int>(a.extent(1));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::noisy_split"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, a.extent(0)), KOKKOS_LAMBDA(const int t) {
        for (int e = 0; e < experts; ++e) {
          a(t, e) = both(t, e);
          b(t, e) = both(t, experts + e);
        }
      });
}

}  // namespace

template <class T>
RouterInfo NoisyTopKRouter<T>::info() {
  RouterInfo info{"noisy_top_k", "the k largest logits after learned noise, weighted by their softmax",
                  "Shazeer et al. 2017, arXiv 1701.06538",
                  {{"importance", 0.1, "weight of the squared variation of the experts' weight sums",
                    0, 1e30},
                   {"load", 0.1, "weight of the squared variation of the experts' expected loads", 0,
                    1e30}}};
  info.takes_k = info.takes_capacity = true;
  // One weight over itself is 1, and teaches the router nothing.
  info.defaults.k = 2;
  info.defaults.balance = 0;
  info.layout_free = false;
  return info;
}

template <class T>
NoisyTopKRouter<T>::NoisyTopKRouter(const RouterPlace& place, const RouterOptions& options,
                                    ParameterStore<T>& store)
    : Router<T>(place, store, place.experts),
      noise_weight_(store.add(
          {place.name + ".noise_weight",
           {static_cast<std::size_t>(place.experts), static_cast<std::size_t>(place.d_model)},
           Initializer::constant(0),
           true,
           false,
           false,
           {"expert", "channel"}})),
      importance_(options.real("importance")),
      load_(options.real("load")),
      rule_{place.experts, place.k, false, detail::GroupLimit(place.experts)} {}

template <class T>
Matrix<T> NoisyTopKRouter<T>::project(const StepContext& ctx, const Matrix<const T>& x) const {
  const std::size_t tokens = x.extent(0), experts = static_cast<std::size_t>(this->place_.experts);
  require_shape("NoisyTopKRouter", "x", x, tokens, static_cast<std::size_t>(this->place_.d_model));
  const Matrix<T> z = ctx.saved->template matrix<T>(tokens, 2 * experts);
  ArenaScope scope(*ctx.scratch);
  const Matrix<T> clean = ctx.scratch->template matrix<T>(tokens, experts);
  const Matrix<T> noise = ctx.scratch->template matrix<T>(tokens, experts);
  gemm<T>(ctx.space, Transpose::no, Transpose::yes, T(1), x, this->store_->value(this->weight_),
          T(0), clean);
  gemm<T>(ctx.space, Transpose::no, Transpose::yes, T(1), x, this->store_->value(noise_weight_),
          T(0), noise);
  join<T>(ctx.space, clean, noise, z);
  return z;
}

template <class T>
Routing<T> NoisyTopKRouter<T>::route_logits(const StepContext& ctx, const Matrix<const T>& z,
                                            const Routing<T>* replay) const {
  const std::size_t rows = z.extent(0), experts = static_cast<std::size_t>(this->place_.experts);
  const int tokens = static_cast<int>(rows);
  require_shape("NoisyTopKRouter", "logits", z, rows, 2 * experts);
  const bool losses = ctx.training && (importance_ != 0 || load_ != 0);
  Matrix<T> noise;
  if (ctx.training) {
    if (replay != nullptr && (replay->extra.extent(0) < rows || replay->extra.extent(1) != experts))
      fail("NoisyTopKRouter", "the routing to replay has no noise");
    noise = ctx.saved->template matrix<T>(losses ? rows + 3 : rows, experts);
    fill_noise<T>(ctx, this->stream(ctx, Purpose::noise), replay, this->place_.experts, noise);
  }
  const Extra<T> extra(noise, tokens);
  ArenaScope scope(*ctx.scratch);
  const Matrix<T> h = ctx.scratch->template matrix<T>(rows, experts);
  noisy_logits<T>(ctx.space, z, extra, h);
  const detail::Jitter<T> none(ctx, PhiloxStream(), 0);
  Routing<T> routing = detail::route_top_k<T>(ctx, "NoisyTopKRouter", rule_, none, h, replay);
  if (losses)
    find_losses<T>(ctx, Chance<T>{z, h, routing.expert, rule_.experts, rule_.k}, routing.weight,
                   importance_, rule_.k < rule_.experts ? load_ : 0, extra);
  routing.extra = noise;
  return routing;
}

template <class T>
void NoisyTopKRouter<T>::add_auxiliary_loss(const StepContext& ctx, const Routing<T>& routing,
                                            const Vector<double>& sum) const {
  const Extra<T> extra(routing.extra, routing.tokens);
  if (!extra.losses) return;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::noisy_loss"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, 1), KOKKOS_LAMBDA(const int) {
        sum(0) += static_cast<double>(extra.loss()) * extra.tokens;
      });
}

template <class T>
void NoisyTopKRouter<T>::logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                                         const Routing<T>& routing,
                                         const RouterFeedback<T>& feedback,
                                         const Matrix<T>& d_z) const {
  const std::size_t rows = z.extent(0), experts = static_cast<std::size_t>(this->place_.experts);
  const Extra<T> extra(routing.extra, routing.tokens);
  ArenaScope scope(*ctx.scratch);
  Vector<const T> d_weight = feedback.d_weight;
  if (extra.losses) {
    const Vector<T> more =
        ctx.scratch->template vector<T>(static_cast<std::size_t>(routing.slots()));
    add_importance<T>(ctx.space, extra, routing.expert, ctx.update_tokens, d_weight, more);
    d_weight = more;
  }
  const Matrix<T> h = ctx.scratch->template matrix<T>(rows, experts);
  const Matrix<T> d_h = ctx.scratch->template matrix<T>(rows, experts);
  noisy_logits<T>(ctx.space, z, extra, h);
  Kokkos::deep_copy(ctx.space, d_h, T(0));
  const detail::Jitter<T> none(ctx, PhiloxStream(), 0);
  detail::top_k_backward<T>(ctx, rule_, none, routing, d_weight, feedback.d_probability, d_h);
  spread_gradient<T>(ctx.space, Chance<T>{z, h, routing.expert, rule_.experts, rule_.k}, extra,
                     ctx.update_tokens, d_h, d_z);
}

template <class T>
void NoisyTopKRouter<T>::project_backward(const StepContext& ctx, const Matrix<const T>& x,
                                          const Matrix<const T>& d_z,
                                          const Matrix<T>& d_x) const {
  const std::size_t tokens = x.extent(0), experts = static_cast<std::size_t>(this->place_.experts);
  ArenaScope scope(*ctx.scratch);
  const Matrix<T> d_clean = ctx.scratch->template matrix<T>(tokens, experts);
  const Matrix<T> d_noise = ctx.scratch->template matrix<T>(tokens, experts);
  split<T>(ctx.space, d_z, d_clean, d_noise);
  Router<T>::project_backward(ctx, x, d_clean, d_x);
  ParameterStore<T>& store = *this->store_;
  gemm<T>(ctx.space, Transpose::yes, Transpose::no, T(1), d_noise, x,
          store.gradient_beta(noise_weight_), store.gradient(noise_weight_));
  gemm<T>(ctx.space, Transpose::no, Transpose::no, T(1), d_noise, store.value(noise_weight_), T(1),
          d_x);
}

template class NoisyTopKRouter<float>;
template class NoisyTopKRouter<double>;

}  // namespace kokomoe
