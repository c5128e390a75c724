// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/layer_memory.hpp"

#include "kokomoe/core/philox.hpp"
#include "kokomoe/moe/moe_layer.hpp"
#include "kokomoe/parallel/communicator.hpp"
#include "kokomoe/parallel/step_context.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace kokomoe {

namespace {

template <class T>
Matrix<T> random_rows(const ExecutionSpace& space, std::size_t rows, std::size_t columns) {
  const Matrix<T> result("kokomoe::moe::memory::rows", rows, columns);
  const PhiloxStream stream(1, Purpose::initialization, 0, 0, 0);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::memory::rows"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, rows * columns),
      KOKKOS_LAMBDA(const std::size_t i) {
        const T u = stream.template uniform<T>(static_cast<std::uint32_t>(i), 0, 0);
        result(i / columns, i % columns) = T(3.5) * (u - T(0.5));  // of variance 1
      });
  return result;
}

Vector<int> some_ids(const ExecutionSpace& space, int tokens, int vocabulary) {
  const Vector<int> ids("kokomoe::moe::memory::ids", static_cast<std::size_t>(tokens));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::memory::ids"), Kokkos::RangePolicy<ExecutionSpace>(space, 0, tokens),
      KOKKOS_LAMBDA(const int t) { ids(t) = t % vocabulary; });
  return ids;
}

/// (rows) the expert of each when all have `rows_each`.
Vector<int> experts_in_turn(const ExecutionSpace& space, std::size_t rows, int rows_each) {
  const Vector<int> expert("kokomoe::moe::memory::expert", rows);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::memory::expert"), Kokkos::RangePolicy<ExecutionSpace>(space, 0, rows),
      KOKKOS_LAMBDA(const int r) { expert(r) = r / rows_each; });
  return expert;
}

double count_running(const ExecutionSpace& space, const Vector<const int>& expert, int experts) {
  int count = 0;
  Kokkos::parallel_reduce(
      KOKOMOE_LABEL("moe::memory::count"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, expert.extent(0)),
      KOKKOS_LAMBDA(const int n, int& sum) { sum += expert(n) >= 0 && expert(n) < experts; },
      count);
  return count;
}

/// Without moments, which nothing here needs.
template <class T>
void allocate_frozen(ParameterStore<T>& store, const ExecutionSpace& space, bool exact) {
  store.freeze("*");
  if (exact) store.sum_exactly();
  store.allocate(space, 1);
}

/// One run of some experts, each with equally many rows.
template <class T>
struct ExpertsRun {
  Arena saved{"kokomoe::moe::memory::saved"}, forward{"kokomoe::moe::memory::forward"},
      backward{"kokomoe::moe::memory::backward"};

  ExpertsRun(const ExpertsConfig& config, RowArithmetic how, int rows_each) {
    const ExecutionSpace space;
    ParameterStore<T> store;
    const Experts<T> experts(config, store, "experts");
    allocate_frozen(store, space, how.layout_free);
    std::vector<int> offsets(static_cast<std::size_t>(config.experts) + 1);
    for (int e = 0; e <= config.experts; ++e) offsets[static_cast<std::size_t>(e)] = e * rows_each;
    const auto rows = static_cast<std::size_t>(offsets.back());
    const auto d = static_cast<std::size_t>(config.d_model);
    const Vector<int> starts("kokomoe::moe::memory::starts", offsets.size());
    using Host = Kokkos::View<const int*, Kokkos::LayoutRight, Kokkos::HostSpace>;
    Kokkos::deep_copy(starts, Host(offsets.data(), offsets.size()));
    const Vector<int> expert_of_row = experts_in_turn(space, rows, rows_each);
    const Matrix<T> x = random_rows<T>(space, rows, d), y("kokomoe::moe::memory::y", rows, d);
    const Vector<T> weight("kokomoe::moe::memory::weight", rows),
        d_weight("kokomoe::moe::memory::d_weight", rows);
    typename Experts<T>::Saved state;
    how.segments = {starts, config.experts};
    experts.forward(space, saved, forward, x, offsets, expert_of_row, y, state, how);
    experts.backward(space, backward, state, offsets, expert_of_row, y, weight, x, d_weight);
    space.fence(KOKOMOE_LABEL("moe::memory"));
  }
};

/// One run of a layer.
template <class T>
struct LayerRun {
  double kept = 0,
         recomputed = 0;  ///< bytes of `saved`: from forward to backward, beside in backward
  Arena saved{"kokomoe::moe::memory::saved"}, forward{"kokomoe::moe::memory::forward"},
      backward{"kokomoe::moe::memory::backward"};

  LayerRun(const MoeConfig& config, const RowArithmetic& how, int tokens) {
    StepContext ctx;
    ParameterStore<T> store;
    const MoeLayer<T> layer(config, 0, store, "moe");
    allocate_frozen(store, ctx.space, how.layout_free);
    const Communicator alone;
    ctx.communicator = &alone;
    ctx.saved = &saved;
    ctx.scratch = &forward;
    ctx.tokens = number_rows(ctx.space, tokens);
    ctx.update_tokens = tokens;
    ctx.layout_free = how.layout_free;
    ctx.round_kept = how.round_kept;
    const auto rows = static_cast<std::size_t>(tokens);
    const auto d = static_cast<std::size_t>(config.d_model);
    const Matrix<T> x = random_rows<T>(ctx.space, rows, d), y("kokomoe::moe::memory::y", rows, d),
                    dx("kokomoe::moe::memory::dx", rows, d);
    // As in training, where the caller keeps them.
    const Vector<double> statistics(
        "kokomoe::moe::memory::statistics",
        static_cast<std::size_t>(LoadStatistics::width(config.experts)));
    typename MoeLayer<T>::Saved state;
    layer.forward(ctx, x, y, state, statistics);
    ctx.scratch = &backward;
    kept = static_cast<double>(saved.mark().used);
    layer.backward(ctx, state, y, dx);
    recomputed = static_cast<double>(saved.high_water()) - kept;
    ctx.space.fence(KOKOMOE_LABEL("moe::memory"));
  }
};

double bytes_of(const Arena& arena) {
  return static_cast<double>(arena.high_water());
}

/// How much smaller experts may be that tell what large ones take.
struct Scale {
  double size = 1;  ///< of channels
  double fixed =
      1;  ///< of what does not depend on the rows: layout-free products pack whole matrices

  Scale(int d_model, int d_hidden, bool layout_free) {
    constexpr double largest = 256;  // channels; more take longer and tell no more
    size = std::max(1.0, std::sqrt(static_cast<double>(d_model) * d_hidden) / largest);
    fixed = layout_free ? size * size : size;
  }
  int shrink(int channels) const {
    return std::max(1, static_cast<int>(std::lround(channels / size)));
  }
};

/// A line through the bytes of n rows and of 2 n.
RowMemory line(const Arena& once, const Arena& twice, double rows, const Scale& scale) {
  const double row = (bytes_of(twice) - bytes_of(once)) / rows;
  return {scale.size * row, scale.fixed * std::max(0.0, bytes_of(once) - row * rows)};
}

/// A plane through those of n tokens, of 2 n, and of n with twice the rows. `routing`: bytes a
/// token of the small layer's routing, with one expert a token and with two.
TokenMemory plane(double once, double twice, double two_rows, double tokens, const Scale& scale,
                  double routing, double routing_two) {
  const double one = (twice - once) / tokens;
  const double fixed = once - one * tokens;
  const double row = (two_rows - once) / tokens - (routing_two - routing);
  return {scale.size * (one - routing - row), scale.size * row, scale.fixed * std::max(0.0, fixed)};
}

}  // namespace

template <class T>
RoutingMemory measure_routing(const MoeConfig& config, int sequence_length) {
  // Nothing that a router keeps for a token depends on the channels.
  constexpr int channels = 16, most_logits = 1 << 20;
  const int tokens = std::clamp(most_logits / config.experts, 1, sequence_length);
  RouterPlace place = router_place(config, 0, "router");
  place.d_model = channels;
  place.routing_group = 0;
  StepContext ctx;
  ParameterStore<T> store;
  const auto router = make_router<T>(config.router, place, config.options, store);
  allocate_frozen(store, ctx.space, false);
  const Communicator alone;
  Arena saved("kokomoe::moe::memory::saved"), scratch("kokomoe::moe::memory::scratch");
  ctx.communicator = &alone;
  ctx.saved = &saved;
  ctx.scratch = &scratch;
  ctx.tokens = number_rows(ctx.space, tokens);
  ctx.tokens.ids = some_ids(ctx.space, tokens, std::max(1, config.vocabulary));
  ctx.update_tokens = tokens;
  const Matrix<T> x = random_rows<T>(ctx.space, static_cast<std::size_t>(tokens), channels);
  const Matrix<T> z = router->project(ctx, x);
  const Routing<T> routing = router->route_logits(ctx, z, nullptr);
  const double running =
      count_running(ctx.space, routing.running(ctx.space, saved), config.experts);
  const bool aims = router_info(config.router).k_is_target;
  return {static_cast<double>(saved.high_water()) / tokens,
          static_cast<double>(scratch.high_water()) / tokens,
          static_cast<double>(routing.slots()) / tokens, aims ? config.k : running / tokens,
          router->gives_gain_gradient()};
}

template <class T>
ExpertsMemory measure_experts(const ExpertsConfig& config, const RowArithmetic& how) {
  constexpr int rows_each = 96, most_experts = 4;
  const Scale scale(config.d_model, config.d_hidden, how.layout_free);
  ExpertsConfig small = config;
  small.d_model = scale.shrink(config.d_model);
  small.d_hidden = scale.shrink(config.d_hidden);
  small.experts = std::min(config.experts, most_experts);
  const ExpertsRun<T> once(small, how, rows_each), twice(small, how, 2 * rows_each);
  const double rows = static_cast<double>(small.experts) * rows_each;
  return {line(once.saved, twice.saved, rows, scale),
          line(once.forward, twice.forward, rows, scale),
          line(once.backward, twice.backward, rows, scale)};
}

template <class T>
LayerMemory measure_layer(const MoeConfig& config, const RowArithmetic& how) {
  constexpr int tokens = 384;
  const Scale scale(config.d_model, config.d_hidden, how.layout_free);
  // Routing is measured by itself: a simple router with few experts, once with twice the rows.
  MoeConfig small = config;
  small.router = "top_k";
  small.options = {};
  small.capacity_factor = 0;
  small.routing_group = 0;
  small.causal = false;
  small.group_over_ranks = false;
  small.balance_scope = BalanceScope::global;
  small.d_model = scale.shrink(config.d_model);
  small.d_hidden = scale.shrink(config.d_hidden);
  small.experts = 4;
  small.k = 1;
  MoeConfig two = small;
  two.k = 2;
  const LayerRun<T> once(small, how, tokens), twice(small, how, 2 * tokens),
      two_rows(two, how, tokens);
  const double routing = measure_routing<T>(small, tokens).saved,
               routing_two = measure_routing<T>(two, tokens).saved;
  const auto scratch = [&](Arena LayerRun<T>::*arena) {
    return plane(bytes_of(once.*arena), bytes_of(twice.*arena), bytes_of(two_rows.*arena), tokens,
                 scale, 0, 0);
  };
  return {plane(once.kept, twice.kept, two_rows.kept, tokens, scale, routing, routing_two),
          plane(once.recomputed, twice.recomputed, two_rows.recomputed, tokens, scale, 0, 0),
          scratch(&LayerRun<T>::forward), scratch(&LayerRun<T>::backward)};
}

#define KOKOMOE_INSTANTIATE(T)                                                           \
  template RoutingMemory measure_routing<T>(const MoeConfig&, int);                      \
  template ExpertsMemory measure_experts<T>(const ExpertsConfig&, const RowArithmetic&); \
  template LayerMemory measure_layer<T>(const MoeConfig&, const RowArithmetic&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
