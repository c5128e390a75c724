// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/layer_memory.hpp"

#include "kokomoe/core/philox.hpp"
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

  ExpertsRun(const ExpertsConfig& config, bool layout_free, int rows_each) {
    const ExecutionSpace space;
    ParameterStore<T> store;
    const Experts<T> experts(config, store, "experts");
    allocate_frozen(store, space, layout_free);
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
    const RowArithmetic how{layout_free, {starts, config.experts}};
    experts.forward(space, saved, forward, x, offsets, expert_of_row, y, state, how);
    experts.backward(space, backward, state, offsets, expert_of_row, y, weight, x, d_weight);
    space.fence(KOKOMOE_LABEL("moe::memory"));
  }
};

/// A line through the bytes of n rows and of 2 n, for experts `scale` times as large.
RowMemory line(const Arena& once, const Arena& twice, double rows, double scale,
               double fixed_scale) {
  const double low = static_cast<double>(once.high_water());
  const double row = (static_cast<double>(twice.high_water()) - low) / rows;
  return {scale * row, fixed_scale * std::max(0.0, low - row * rows)};
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
          static_cast<double>(routing.slots()) / tokens, aims ? config.k : running / tokens};
}

template <class T>
ExpertsMemory measure_experts(const ExpertsConfig& config, bool layout_free) {
  constexpr double largest = 256;  // channels; more take longer and tell no more
  constexpr int rows_each = 96, most_experts = 4;
  const double mean = std::sqrt(static_cast<double>(config.d_model) * config.d_hidden);
  const double scale = std::max(1.0, mean / largest);
  const auto shrink = [&](int size) {
    return std::max(1, static_cast<int>(std::lround(size / scale)));
  };
  ExpertsConfig small = config;
  small.d_model = shrink(config.d_model);
  small.d_hidden = shrink(config.d_hidden);
  small.experts = std::min(config.experts, most_experts);
  const ExpertsRun<T> once(small, layout_free, rows_each), twice(small, layout_free, 2 * rows_each);
  const double rows = static_cast<double>(small.experts) * rows_each;
  // Layout-free products pack whole matrices.
  const double fixed = layout_free ? scale * scale : scale;
  return {line(once.saved, twice.saved, rows, scale, fixed),
          line(once.forward, twice.forward, rows, scale, fixed),
          line(once.backward, twice.backward, rows, scale, fixed)};
}

#define KOKOMOE_INSTANTIATE(T)                                      \
  template RoutingMemory measure_routing<T>(const MoeConfig&, int); \
  template ExpertsMemory measure_experts<T>(const ExpertsConfig&, bool);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
