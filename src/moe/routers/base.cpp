// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/base.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/detail/chosen_weights.hpp"
#include "kokomoe/moe/routing_groups.hpp"

namespace kokomoe {

namespace {

/// The balanced assignment of one group. Places of an expert come in two classes: floor(n / E) that
/// tokens must fill, and, where E does not divide n, one spare. Bidders are the tokens and, for the
/// spare places that stay empty, E - n % E bidders worth 0 to whom only those are open; so
/// everybody finds a place, whatever the prices were to begin with.
struct Auction {
  Matrix<double> value;  ///< (T, E) at most 0; -infinity where not wanted
  Vector<double> price;  ///< (T + G E) of each place; an expert's must-fill ones in a min-heap
  Vector<int> owner;     ///< (T + G E) bidder or -1
  Vector<int> waiting;   ///< (T + G E) bidders without a place
  Vector<int> expert;    ///< (T) the result
  double epsilon;
  int experts;

  /// A group at work.
  struct Group {
    int begin, tokens, base, places, spares, bidders;
  };
  struct Bid {
    int place = -1;
    bool rivalled = false;  ///< `second` is known
    double best = 0, second = 0;
    KOKKOS_INLINE_FUNCTION void offer(int candidate, double worth) {
      const bool wins = place < 0 || worth > best;
      if (place >= 0 && (wins || !rivalled || worth > second)) {
        second = wins ? best : worth;
        rivalled = true;
      }
      if (!wins) return;
      best = worth;
      place = candidate;
    }
    KOKKOS_INLINE_FUNCTION double lead() const { return rivalled ? best - second : 0; }
  };

  KOKKOS_INLINE_FUNCTION void run(int group, int begin, int tokens) const {
    if (tokens == 0) return;
    const int places = tokens / experts, rest = tokens % experts;
    const int spares = rest > 0 ? experts : 0;
    const Group g{begin,  tokens, begin + group * experts,
                  places, spares, places * experts + spares};
    to_unit_spread(g);
    for (int i = 0; i < g.bidders; ++i) price(g.base + i) = 0;
    double step = 0.25;
    bool settled = true;
    for (;;) {
      step = step > epsilon ? step : epsilon;
      level(g);
      settled = settle(g, step);
      if (step == epsilon) break;
      step /= 4;
    }
    if (settled)
      read(g);
    else
      fill(g, rest);
  }

  /// Divides by the group's largest spread; what nobody wants is twice that away.
  KOKKOS_INLINE_FUNCTION void to_unit_spread(const Group& g) const {
    double spread = 0;
    for (int t = g.begin; t < g.begin + g.tokens; ++t)
      for (int e = 0; e < experts; ++e) {
        const double below = -value(t, e);
        if (below > spread && below <= Kokkos::Experimental::finite_max_v<double>) spread = below;
      }
    for (int t = g.begin; t < g.begin + g.tokens; ++t)
      for (int e = 0; e < experts; ++e) {
        const double v = value(t, e);
        const bool wanted = v >= -Kokkos::Experimental::finite_max_v<double>;
        value(t, e) = wanted ? (spread > 0 ? v / spread : 0) : -2;
      }
  }

  /// Sets an expert's places to the cheapest price, which is what they are worth: those that one
  /// eager bidder made dear would otherwise stay empty until all had crept up to them.
  KOKKOS_INLINE_FUNCTION void level(const Group& g) const {
    for (int i = 0; i < g.places * experts; ++i)
      price(g.base + i) = price(g.base + i / g.places * g.places);
  }

  /// One phase from an empty assignment; false when it ran out of bids.
  KOKKOS_INLINE_FUNCTION bool settle(const Group& g, double step) const {
    for (int i = 0; i < g.bidders; ++i) {
      owner(g.base + i) = -1;
      waiting(g.base + i) = i;
    }
    long long bids = 500ll * g.bidders;
    for (int left = g.bidders; left > 0;) {
      if (bids-- == 0) return false;
      const int bidder = waiting(g.base + --left);
      const Bid bid = make_bid(g, bidder);
      const int previous = owner(g.base + bid.place);
      if (previous >= 0) waiting(g.base + left++) = previous;
      owner(g.base + bid.place) = bidder;
      price(g.base + bid.place) += bid.lead() + step;
      if (bid.place < g.places * experts) sift(g, bid.place / g.places);
    }
    return true;
  }

  KOKKOS_INLINE_FUNCTION Bid make_bid(const Group& g, int bidder) const {
    Bid bid;
    const bool token = bidder < g.tokens;
    for (int e = 0; e < experts; ++e) {
      const double worth = token ? value(g.begin + bidder, e) : 0;
      if (token && g.places > 0) bid.offer(e * g.places, worth - price(g.base + e * g.places));
      if (g.spares > 0) {
        const int spare = g.places * experts + e;
        bid.offer(spare, worth - price(g.base + spare));
      }
    }
    return bid;
  }

  /// Restores an expert's heap after the price at its root rose.
  KOKKOS_INLINE_FUNCTION void sift(const Group& g, int e) const {
    const int root = g.base + e * g.places;
    for (int i = 0;;) {
      int least = i;
      for (int child = 2 * i + 1; child <= 2 * i + 2 && child < g.places; ++child)
        if (price(root + child) < price(root + least)) least = child;
      if (least == i) return;
      const double p = price(root + i);
      const int o = owner(root + i);
      price(root + i) = price(root + least);
      owner(root + i) = owner(root + least);
      price(root + least) = p;
      owner(root + least) = o;
      i = least;
    }
  }

  KOKKOS_INLINE_FUNCTION void read(const Group& g) const {
    for (int i = 0; i < g.bidders; ++i) {
      const int o = owner(g.base + i), required = g.places * experts;
      if (o < g.tokens) expert(g.begin + o) = i < required ? i / g.places : i - required;
    }
  }

  /// Token after token to the best expert with room, by value less price.
  KOKKOS_INLINE_FUNCTION void fill(const Group& g, int spares) const {
    const auto load = [&](int e) -> int& { return waiting(g.base + e); };
    const int required = g.places * experts;
    for (int e = 0; e < experts; ++e) load(e) = 0;
    for (int t = g.begin; t < g.begin + g.tokens; ++t) {
      int best = -1;
      double most = 0;
      for (int e = 0; e < experts; ++e) {
        if (load(e) > g.places || (load(e) == g.places && spares == 0)) continue;
        const int place = g.places > 0 ? e * g.places : required + e;
        const double worth = value(t, e) - price(g.base + place);
        if (best < 0 || worth > most) {
          best = e;
          most = worth;
        }
      }
      if (load(best)++ == g.places) --spares;
      expert(t) = best;
    }
  }
};

template <class T>
void assign(const StepContext& ctx, const RoutingGroups& groups, const Matrix<const T>& z,
            double epsilon, const Vector<int>& expert) {
  const int tokens = static_cast<int>(z.extent(0)), experts = static_cast<int>(z.extent(1));
  const ArenaScope scope(*ctx.scratch);
  const std::size_t places = z.extent(0) + static_cast<std::size_t>(groups.count) * z.extent(1);
  const Auction auction{ctx.scratch->matrix<double>(z.extent(0), z.extent(1)),
                        ctx.scratch->vector<double>(places),
                        ctx.scratch->vector<int>(places),
                        ctx.scratch->vector<int>(places),
                        expert,
                        epsilon,
                        experts};
  const Matrix<double> value = auction.value;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::base_value"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, tokens), KOKKOS_LAMBDA(const int t) {
        const detail::LogitRow<T> row(&z(t, 0), experts);
        // Halved, so that the largest numbers differ by a number.
        const double most = 0.5 * static_cast<double>(row.maximum());
        for (int e = 0; e < experts; ++e)
          value(t, e) = 0.5 * static_cast<double>(row.value(e)) - most;
      });
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::base_auction"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, groups.count), KOKKOS_LAMBDA(const int g) {
        const int begin = groups.begin(g);
        auction.run(g, begin, groups.end(g) - begin);
      });
}

}  // namespace

template <class T>
RouterInfo BaseRouter<T>::info() {
  RouterInfo info{"base", "balanced assignment in training, the argmax in evaluation",
                  "Lewis et al. 2021, arXiv 2103.16716",
                  {{"epsilon", 1e-4,
                    "how far from the best an assignment may be for each token, relative to the "
                    "spread of the logits",
                    1e-9, 1}}};
  info.batch_coupled = true;
  info.balance_loss = false;
  info.defaults.balance = 0;
  return info;
}

template <class T>
BaseRouter<T>::BaseRouter(const RouterPlace& place, const RouterOptions& options,
                          ParameterStore<T>& store)
    : Router<T>(place, store, place.experts), epsilon_(options.real("epsilon")) {}

template <class T>
Routing<T> BaseRouter<T>::route_logits(const StepContext& ctx, const Matrix<const T>& z,
                                       const Routing<T>* replay) const {
  const int tokens = static_cast<int>(z.extent(0)), experts = this->place_.experts;
  require_shape("BaseRouter", "logits", z, z.extent(0), static_cast<std::size_t>(experts));
  Routing<T> routing = make_token_choice<T>(ctx.space, *ctx.saved, tokens, experts, 1);
  routing.probability = ctx.saved->template matrix<T>(z.extent(0), z.extent(1));
  const Matrix<T> p = routing.probability;
  const Vector<int> expert = routing.expert;
  const Vector<T> weight = routing.weight;
  const Vector<const int> replayed = replay != nullptr ? replay->expert : Vector<int>();
  if (replay != nullptr && replay->slots() != tokens)
    fail("BaseRouter", "the routing to replay is of another router");
  const bool assigned = ctx.training && replay == nullptr;
  if (assigned)
    assign<T>(ctx, RoutingGroups(ctx, this->place_.routing_group), z, epsilon_, expert);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::base"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, tokens), KOKKOS_LAMBDA(const int t) {
        const detail::LogitRow<T> row(&z(t, 0), experts);
        if (!assigned) expert(t) = replayed.extent(0) != 0 ? replayed(t) : row.argmax();
        detail::softmax_row(row, [](int) { return true; }, &p(t, 0));
        weight(t) = detail::logistic(z(t, expert(t)));
      });
  return routing;
}

template <class T>
void BaseRouter<T>::logits_backward(const StepContext& ctx, const Matrix<const T>&,
                                    const Routing<T>& routing, const RouterFeedback<T>& feedback,
                                    const Matrix<T>& d_z) const {
  const Vector<const int> expert = routing.expert;
  const Vector<const T> weight = routing.weight, d_weight = feedback.d_weight;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::base_backward"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, routing.tokens),
      KOKKOS_LAMBDA(const int t) {
        d_z(t, expert(t)) += d_weight(t) * weight(t) * (T(1) - weight(t));
      });
}

template class BaseRouter<float>;
template class BaseRouter<double>;

}  // namespace kokomoe
