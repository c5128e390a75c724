// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/s_base.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/moe/detail/chosen_weights.hpp"
#include "kokomoe/moe/routing_groups.hpp"

namespace kokomoe {

namespace {

/// Scales of one group's experts. Every sum is taken by one thread in a fixed order, so that the
/// result is the same for any number of threads.
template <class T>
struct Sinkhorn {
  Matrix<const T> mass;  ///< (T, E) exp(z - largest of the token)
  Vector<T> inverse;     ///< (T) 1 / (a token's scaled mass), 0 when it has none
  Matrix<T> scale;       ///< (G, E)
  Matrix<T> share;       ///< (G, E) column sums before scaling
  T tolerance;
  int iterations, experts;

  KOKKOS_INLINE_FUNCTION void run(const Row& row, int begin, int count) const {
    T* const v = &scale(row.index(), 0);
    T* const c = &share(row.index(), 0);
    row.each(experts, [&](const int e) { v[e] = 1; });
    // One token alone would have equal shares of all experts.
    for (int iteration = 0; iteration < iterations && count > 1; ++iteration) {
      row.each(count, [&](const int j) {
        T sum = 0;
        for (int e = 0; e < experts; ++e) sum += mass(begin + j, e) * v[e];
        inverse(begin + j) = sum > T(0) ? T(1) / sum : T(0);
      });
      row.each(experts, [&](const int e) {
        T sum = 0;
        for (int j = 0; j < count; ++j) sum += mass(begin + j, e) * inverse(begin + j);
        // The scaled mass: v itself is written below while others may still judge it.
        c[e] = sum * v[e];
      });
      T total = 0;
      int alive = 0;
      for (int e = 0; e < experts; ++e) {
        total += c[e];
        alive += c[e] > T(0) ? 1 : 0;
      }
      const T even = total / static_cast<T>(alive > 0 ? alive : 1);
      T worst = 0;
      for (int e = 0; e < experts; ++e) {
        const T off = c[e] > T(0) ? Kokkos::abs(c[e] / even - T(1)) : T(0);
        worst = off > worst ? off : worst;
      }
      if (!(worst > tolerance)) return;
      row.each(experts, [&](const int e) {
        const T better = v[e] * even / c[e];
        if (better > T(0) && better < Kokkos::Experimental::finite_max_v<T>) v[e] = better;
      });
    }
  }
};

/// (G, E) scales of the experts in each group, in ctx.scratch.
template <class T>
Matrix<const T> expert_scales(const StepContext& ctx, const RoutingGroups& groups,
                              const Matrix<const T>& z, double tolerance, int iterations) {
  const int tokens = static_cast<int>(z.extent(0)), experts = static_cast<int>(z.extent(1));
  const auto count = static_cast<std::size_t>(groups.count);
  const Matrix<T> mass = ctx.scratch->template matrix<T>(z.extent(0), z.extent(1));
  const Sinkhorn<T> sinkhorn{mass,
                             ctx.scratch->template vector<T>(z.extent(0)),
                             ctx.scratch->template matrix<T>(count, z.extent(1)),
                             ctx.scratch->template matrix<T>(count, z.extent(1)),
                             static_cast<T>(tolerance),
                             iterations,
                             experts};
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::s_base_mass"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, tokens), KOKKOS_LAMBDA(const int t) {
        const detail::LogitRow<T> row(&z(t, 0), experts);
        for (int e = 0; e < experts; ++e) {
          const T value = row.value(e);
          mass(t, e) = value == value ? Kokkos::exp(value - row.maximum()) : T(0);
        }
      });
  for_each_row(
      KOKOMOE_LABEL("moe::router::s_base_sinkhorn"), ctx.space, groups.count,
      KOKKOS_LAMBDA(const Row& row) {
        const int begin = groups.begin(row.index());
        sinkhorn.run(row, begin, groups.end(row.index()) - begin);
      });
  return sinkhorn.scale;
}

}  // namespace

template <class T>
RouterInfo SBaseRouter<T>::info() {
  RouterInfo info{"s_base", "balanced by Sinkhorn scaling in training; the top k of the result",
                  "Clark et al. 2022, arXiv 2202.01169",
                  {{"tolerance", 1e-4, "of an expert's share, relative to an even one", 0, 1},
                   {"iterations", std::int64_t(100), "most scalings", 1, 1e6},
                   {"softmax", std::string("after"),
                    "k > 1: softmax over the chosen (after) or all experts (before)", 0, 0,
                    {"before", "after"}}}};
  info.batch_coupled = true;
  info.balance_loss = false;
  info.takes_k = true;
  info.defaults.balance = 0;
  return info;
}

template <class T>
SBaseRouter<T>::SBaseRouter(const RouterPlace& place, const RouterOptions& options,
                            ParameterStore<T>& store)
    : Router<T>(place, store, place.experts),
      tolerance_(options.real("tolerance")),
      iterations_(static_cast<int>(options.integer("iterations"))),
      before_(options.text("softmax") == "before") {}

template <class T>
Routing<T> SBaseRouter<T>::route_logits(const StepContext& ctx, const Matrix<const T>& z,
                                        const Routing<T>* replay) const {
  const int tokens = static_cast<int>(z.extent(0)), experts = this->place_.experts;
  const int k = this->place_.k;
  const bool before = before_;
  require_shape("SBaseRouter", "logits", z, z.extent(0), static_cast<std::size_t>(experts));
  Routing<T> routing = make_token_choice<T>(ctx.space, *ctx.saved, tokens, experts, k);
  routing.probability = ctx.saved->template matrix<T>(z.extent(0), z.extent(1));
  const Matrix<T> p = routing.probability;
  const Vector<int> expert = routing.expert;
  const Vector<T> weight = routing.weight;
  const Vector<const int> replayed = replay != nullptr ? replay->expert : Vector<int>();
  if (replay != nullptr && replay->slots() != tokens * k)
    fail("SBaseRouter", "the routing to replay is of another router");

  const ArenaScope scope(*ctx.scratch);
  const bool scaled = ctx.training && replay == nullptr;
  const Matrix<T> log_scale =
      ctx.scratch->template matrix<T>(z.extent(0), scaled ? z.extent(1) : 0);
  if (scaled) {
    const RoutingGroups groups(ctx, this->place_.routing_group);
    const Matrix<const T> scale = expert_scales<T>(ctx, groups, z, tolerance_, iterations_);
    Kokkos::parallel_for(
        KOKOMOE_LABEL("moe::router::s_base_spread"),
        Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, groups.count * experts),
        KOKKOS_LAMBDA(const int i) {
          const int g = i / experts, e = i % experts;
          const T value = Kokkos::log(scale(g, e));
          for (int t = groups.begin(g); t < groups.end(g); ++t) log_scale(t, e) = value;
        });
  }
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::s_base"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, tokens), KOKKOS_LAMBDA(const int t) {
        const detail::LogitRow<T> row(&z(t, 0), experts);
        // The order of exp(z) times scale, also where exp would underflow.
        const auto score = [&](int e) {
          return scaled ? row.value(e) - row.maximum() + log_scale(t, e) : row.value(e);
        };
        int* const chosen = &expert(t * k);
        T* const w = &weight(t * k);
        for (int r = 0; r < k; ++r)
          chosen[r] = replayed.extent(0) != 0 ? replayed(t * k + r)
                                              : detail::best_remaining(experts, chosen, r, score);
        detail::softmax_row(row, [](int) { return true; }, &p(t, 0));
        if (k == 1) {
          w[0] = detail::logistic(z(t, chosen[0]));
        } else if (before) {
          for (int r = 0; r < k; ++r) w[r] = p(t, chosen[r]);
        } else {
          detail::softmax_of_chosen(row, chosen, k, w);
        }
      });
  return routing;
}

template <class T>
void SBaseRouter<T>::logits_backward(const StepContext& ctx, const Matrix<const T>&,
                                     const Routing<T>& routing, const RouterFeedback<T>& feedback,
                                     const Matrix<T>& d_z) const {
  const int experts = routing.experts, k = this->place_.k;
  const bool before = before_;
  const Matrix<const T> p = routing.probability;
  const Vector<const int> expert = routing.expert;
  const Vector<const T> weight = routing.weight, d_weight = feedback.d_weight;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::s_base_backward"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, routing.tokens),
      KOKKOS_LAMBDA(const int t) {
        const T* const w = &weight(t * k);
        const T* const d_w = &d_weight(t * k);
        if (k == 1) {
          d_z(t, expert(t)) += d_w[0] * w[0] * (T(1) - w[0]);
          return;
        }
        T mean = 0;
        for (int r = 0; r < k; ++r) mean += w[r] * d_w[r];
        for (int r = 0; r < k; ++r)
          d_z(t, expert(t * k + r)) += w[r] * (d_w[r] - (before ? T(0) : mean));
        for (int e = 0; e < experts && before; ++e) d_z(t, e) -= p(t, e) * mean;
      });
}

template class SBaseRouter<float>;
template class SBaseRouter<double>;

}  // namespace kokomoe
