// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/moe_layer.hpp"

#include "kokomoe/core/clear.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/moe/capacity.hpp"
#include "kokomoe/moe/combine.hpp"
#include "kokomoe/moe/route_over_ranks.hpp"
#include "kokomoe/parameters/products.hpp"

#include <chrono>
#include <functional>

namespace kokomoe {

namespace {

/// Adds the time since the last call to a counter, when timing is on.
class Stopwatch {
 public:
  Stopwatch(const ExecutionSpace& space, bool on) : space_(space), on_(on) {
    if (on_) start_ = now();
  }
  void add_to(double& seconds) {
    if (!on_) return;
    const auto end = now();
    seconds += std::chrono::duration<double>(end - start_).count();
    start_ = end;
  }

 private:
  std::chrono::steady_clock::time_point now() const {
    space_.fence(KOKOMOE_LABEL("moe::stopwatch"));
    return std::chrono::steady_clock::now();
  }
  const ExecutionSpace& space_;
  bool on_;
  std::chrono::steady_clock::time_point start_{};
};

const MoeConfig& possible(const MoeConfig& config) {
  if (const auto refusal = impossible(config))
    throw InputError(refusal->key + ": " + refusal->reason);
  return config;
}

ExpertsConfig experts_config(const MoeConfig& config) {
  return {config.experts, config.d_model,      config.d_hidden, config.activation,   config.bias,
          true,           config.output_scale, config.kernels,  config.round_weights};
}

/// y(t, c) = gain(c) x(t, c). y may be x.
template <class T>
void multiply_columns(const ExecutionSpace& space, const Matrix<const T>& x,
                      const Vector<const T>& gain, const Matrix<T>& y) {
  const int columns = static_cast<int>(y.extent(1));
  for_each_row(
      KOKOMOE_LABEL("moe::combine::gain"), space, static_cast<int>(y.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        const T* const from = &x(row.index(), 0);
        T* const to = &y(row.index(), 0);
        row.each(columns, [&](const int j) { to[j] = gain(j) * from[j]; });
      });
}

/// y += x.
template <class T>
void add_rows(const ExecutionSpace& space, const Matrix<const T>& x, const Matrix<T>& y) {
  const int columns = static_cast<int>(y.extent(1));
  for_each_row(
      KOKOMOE_LABEL("moe::combine::add"), space, static_cast<int>(y.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        const T* const from = &x(row.index(), 0);
        T* const to = &y(row.index(), 0);
        row.each(columns, [&](const int j) { to[j] += from[j]; });
      });
}

/// What the load-balance loss averages.
template <class T>
const Matrix<T>& balance_probability(const Routing<T>& routing) {
  return routing.balance_probability.extent(0) != 0 ? routing.balance_probability
                                                    : routing.probability;
}

template <class T>
void check_replay(const Routing<T>& replay, int tokens, int experts) {
  if (replay.tokens == tokens && replay.experts == experts) return;
  fail("MoeLayer::forward", "a routing of " + std::to_string(replay.tokens) + " tokens and " +
                                std::to_string(replay.experts) + " experts is replayed on " +
                                std::to_string(tokens) + " tokens and " + std::to_string(experts) +
                                " experts");
}

}  // namespace

template <class T>
MoeLayer<T>::MoeLayer(const MoeConfig& config, int layer, ParameterStore<T>& store,
                      const std::string& name)
    : config_(possible(config)),
      store_(&store),
      router_(make_router<T>(config.router, router_place(config, layer, name + ".router"),
                             config.options, store)),
      experts_(experts_config(config), store, name + ".experts"),
      limited_(config.capacity_factor > 0 && !router_info(config.router).own_capacity),
      over_ranks_(config.group_over_ranks && config.routing_group > 0 && looks_at_groups(config)) {
  if (config.shared_experts > 0)
    shared_.emplace(
        ExpertsConfig{1, config.d_model, config.d_hidden * config.shared_experts, config.activation,
                      config.bias, false, config.output_scale, config.kernels},
        store, name + ".shared");
  if (config.output_gain)
    gain_ = store.add({name + ".output_gain",
                       {static_cast<std::size_t>(config.d_model)},
                       Initializer::constant(1),
                       false,
                       false,
                       false,
                       {"channel"}});
}

template <class T>
void MoeLayer<T>::forward(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y,
                          Saved& saved, const Vector<double>& statistics,
                          const Routing<T>* replay) const {
  const Region region(KOKOMOE_LABEL("moe::forward"));
  const std::size_t tokens = x.extent(0);
  const auto d = static_cast<std::size_t>(config_.d_model);
  const auto experts = static_cast<std::size_t>(config_.experts);
  require_shape("MoeLayer::forward", "x", x, tokens, d);
  require_shape("MoeLayer::forward", "y", y, tokens, d);
  if (x.data() == y.data() && tokens > 0)
    fail("MoeLayer::forward", "y is x: backward needs x as it is");
  if (replay != nullptr) check_replay(*replay, static_cast<int>(tokens), config_.experts);
  if (ctx.communicator == nullptr || ctx.saved == nullptr || ctx.scratch == nullptr)
    fail("MoeLayer::forward", "the context needs a communicator and two arenas");
  if (ctx.tokens.sequence_index.extent(0) != tokens || ctx.tokens.position.extent(0) != tokens)
    fail("MoeLayer::forward",
         "the context numbers " + std::to_string(ctx.tokens.position.extent(0)) +
             " tokens, x has " + std::to_string(tokens) + " rows (see number_rows)");
  saved.seconds_router = saved.seconds_dispatch = saved.seconds_experts = saved.seconds_combine = 0;
  Stopwatch watch(ctx.space, timed_);

  saved.x = x;
  saved.logits = router_->project(ctx, x);
  const bool over_ranks = over_ranks_ && ctx.communicator->size() > 1 && replay == nullptr;
  saved.routing = over_ranks ? route_over_ranks<T>(ctx, *router_, config_, limited_, saved.logits)
                             : router_->route_logits(ctx, saved.logits, replay);
  if (limited_ && replay != nullptr && replay->dropped.extent(0) != 0) {
    // By probability the choice would follow the weights, which a replay computes anew.
    saved.routing.dropped = ctx.saved->template vector<unsigned char>(replay->dropped.extent(0));
    Kokkos::deep_copy(ctx.space, saved.routing.dropped, replay->dropped);
  } else if (limited_ && !over_ranks) {
    apply_capacity<T>(ctx, RoutingGroups(ctx, config_.routing_group), config_.k,
                      config_.capacity_factor, config_.capacity_drop, saved.routing);
  }
  const Routing<T>& routing = saved.routing;
  watch.add_to(saved.seconds_router);

  build_dispatch_plan(ctx.space, *ctx.saved, *ctx.scratch, static_cast<int>(tokens),
                      config_.experts, routing.slots_per_token, routing.token,
                      routing.running(ctx.space, *ctx.saved), saved.plan);
  ArenaScope scope(*ctx.scratch);
  watch.add_to(saved.seconds_dispatch);

  const Vector<double> sums = statistics.extent(0) != 0
                                  ? statistics
                                  : ctx.saved->template vector<double>(static_cast<std::size_t>(
                                        LoadStatistics::width(config_.experts)));
  const bool ran_is_counted = routing.counted.extent(0) == 0 && routing.dropped.extent(0) == 0;
  gather_statistics<T>(
      ctx,
      ran_is_counted ? saved.plan.counts : count_assignments<T>(ctx.space, *ctx.saved, routing),
      balance_probability(routing), saved.logits, config_.z_loss != 0, sums);
  saved.counts = ctx.saved->template vector<double>(experts);
  Kokkos::deep_copy(ctx.space, saved.counts, Vector<double>(sums.data(), experts));
  const Vector<double> router_loss(sums.data() + LoadStatistics::router_loss(config_.experts), 1);
  // By default balance is global: a loss on each rank's own counts measurably hurts.
  if (config_.balance != 0 && ctx.training && config_.balance_scope == BalanceScope::global)
    ctx.communicator->all_reduce_sum(ctx.space, saved.counts);
  if (config_.balance_scope == BalanceScope::sequence && config_.balance != 0) {
    saved.group_counts = count_by_sequence<T>(ctx, routing);
    add_sequence_balance<T>(ctx, config_.balance, saved.group_counts, balance_probability(routing),
                            router_loss);
  } else if (config_.balance_scope == BalanceScope::micro_batch && config_.balance != 0) {
    add_local_balance(ctx, config_.balance, saved.counts, sums, router_loss);
  }
  router_->add_auxiliary_loss(ctx, routing, router_loss);
  watch.add_to(saved.seconds_router);

  if (!config_.recompute) {
    mix(ctx, saved, y, ctx.training && replay == nullptr);
    return;
  }
  const ArenaScope not_kept(*ctx.saved);
  mix(ctx, saved, y, ctx.training && replay == nullptr);
}

template <class T>
void MoeLayer<T>::mix(const StepContext& ctx, Saved& saved, const Matrix<T>& y,
                      bool first_time) const {
  Stopwatch watch(ctx.space, timed_);
  const Routing<T>& routing = saved.routing;
  const Matrix<const T> x = saved.x;
  const std::size_t tokens = x.extent(0);
  const auto d = static_cast<std::size_t>(config_.d_model);
  ArenaScope scope(*ctx.scratch);
  const Matrix<T> out =
      ctx.scratch->template matrix<T>(static_cast<std::size_t>(saved.plan.rows()), d);
  const Matrix<T> shared = ctx.scratch->template matrix<T>(shared_ ? tokens : 0, d);
  const auto run_shared = [&] {
    saved.shared_rows = {0, static_cast<int>(tokens)};
    shared_->forward(ctx.space, *ctx.saved, *ctx.scratch, x, saved.shared_rows, Vector<const int>(),
                     shared, saved.shared_experts,
                     {ctx.layout_free, segments_of(ctx), ctx.round_kept});
  };
  // By reference: a copy of the closure would ask for memory.
  std::function<void()> beside;
  if (shared_) beside = std::ref(run_shared);
  experts_.forward(ctx, saved.plan, x, out, saved.experts, beside);
  if (first_time) router_->after_experts(ctx, routing, out, saved.plan.slot_of_row);
  watch.add_to(saved.seconds_experts);

  saved.keeps_mixed =
      gain_.valid() && !(experts_.sums_factor(ctx.layout_free) && router_->gives_gain_gradient());
  saved.mixed = saved.keeps_mixed ? ctx.saved->template matrix<T>(tokens, d) : Matrix<T>();
  const Matrix<T> mixed = saved.keeps_mixed ? saved.mixed : y;
  const Vector<const T> gain =
      gain_.valid() ? Vector<const T>(store_->value_vector(gain_)) : Vector<const T>();
  if (!shared_ && !router_->adds_output()) {
    combine_rows<T>(ctx.space, saved.plan, out, routing.weight, mixed, gain,
                    saved.keeps_mixed ? y : Matrix<T>());
  } else {
    combine_rows<T>(ctx.space, saved.plan, out, routing.weight, mixed);
    router_->add_output(ctx, routing, mixed);
    if (shared_) add_rows<T>(ctx.space, shared, mixed);
    if (gain_.valid()) multiply_columns<T>(ctx.space, mixed, gain, y);
  }
  watch.add_to(saved.seconds_combine);
}

template <class T>
void MoeLayer<T>::backward(const StepContext& ctx, Saved& saved, const Matrix<const T>& dy,
                           const Matrix<T>& dx) const {
  const Region region(KOKOMOE_LABEL("moe::backward"));
  const Routing<T>& routing = saved.routing;
  const DispatchPlan& plan = saved.plan;
  const std::size_t tokens = saved.x.extent(0);
  const auto d = static_cast<std::size_t>(config_.d_model);
  const auto rows = static_cast<std::size_t>(plan.rows());
  const auto slots = static_cast<std::size_t>(routing.slots());
  require_shape("MoeLayer::backward", "dy", dy, tokens, d);
  require_shape("MoeLayer::backward", "dx", dx, tokens, d);
  if (dx.data() == dy.data() && tokens > 0) fail("MoeLayer::backward", "dx is dy");
  const bool own_loss = routing.extra.extent(0) != 0;
  if (tokens > 0 && (config_.balance != 0 || config_.z_loss != 0 || own_loss) &&
      !(ctx.update_tokens > 0))
    fail("MoeLayer::backward", "the context's update_tokens must be positive");
  ArenaScope scope(*ctx.scratch);
  const ArenaScope again(*ctx.saved);
  if (config_.recompute) mix(ctx, saved, dx, false);  // dx is written at the end: it has the room
  Stopwatch watch(ctx.space, timed_);

  // By the sum before the gain. Experts multiply when they read it; a router that wants it, too,
  // has it whole.
  PickedRows<T> d_mixed = dy;
  Vector<T> d_gain;
  if (gain_.valid()) {
    if (saved.keeps_mixed) {
      add_column_gradient<T>(ctx, dy, saved.mixed, *store_, gain_);
    } else {
      d_gain = ctx.scratch->template vector<T>(d);
      clear(ctx.space, d_gain);
    }
    const Vector<const T> gain = store_->value_vector(gain_);
    if (router_->adds_output()) {
      const Matrix<T> scaled = ctx.scratch->template matrix<T>(tokens, d);
      multiply_columns<T>(ctx.space, dy, gain, scaled);
      d_mixed = scaled;
    } else {
      d_mixed.factor = gain;
    }
  }
  const Vector<T> row_weight = ctx.scratch->template vector<T>(rows);
  slots_to_rows<T>(ctx.space, plan,
                   routing.expert_gradient_weight.extent(0) != 0 ? routing.expert_gradient_weight
                                                                 : routing.weight,
                   row_weight);
  watch.add_to(saved.seconds_combine);

  const Matrix<T> d_rows = ctx.scratch->template matrix<T>(rows, d);
  const Vector<T> d_row_weight = ctx.scratch->template vector<T>(rows);
  const Matrix<T> d_shared = ctx.scratch->template matrix<T>(shared_ ? tokens : 0, d);
  const auto run_shared = [&] {
    shared_->backward(ctx.space, *ctx.scratch, saved.shared_experts, saved.shared_rows,
                      Vector<const int>(), d_mixed, Vector<const T>(), d_shared, Vector<T>(),
                      d_gain);
  };
  std::function<void()> beside;
  if (shared_) beside = std::ref(run_shared);
  experts_.backward(ctx, plan, saved.experts, d_mixed, row_weight, d_rows, d_row_weight, d_gain,
                    beside);
  if (d_gain.extent(0) != 0)
    add_column_gradient<T>(ctx, Matrix<const T>(d_gain.data(), 1, d), Matrix<const T>(), *store_,
                           gain_);
  watch.add_to(saved.seconds_experts);

  combine_rows<T>(ctx.space, plan, d_rows, Vector<const T>(), dx);
  const Vector<T> d_weight = ctx.scratch->template vector<T>(slots);
  rows_to_slots<T>(ctx.space, plan, d_row_weight, d_weight);
  watch.add_to(saved.seconds_dispatch);
  if (shared_) add_rows<T>(ctx.space, d_shared, dx);

  RouterFeedback<T> feedback{d_weight, router_->adds_output() ? d_mixed.from : Matrix<const T>(),
                             Matrix<const T>(), saved.counts};
  if (config_.balance != 0) {
    const Matrix<T> d_probability =
        ctx.scratch->template matrix<T>(tokens, static_cast<std::size_t>(config_.experts));
    if (config_.balance_scope == BalanceScope::sequence)
      sequence_balance_gradient<T>(ctx, config_.balance, saved.group_counts, d_probability);
    else
      balance_gradient<T>(ctx.space, config_.balance, saved.counts, ctx.update_tokens,
                          d_probability);
    feedback.d_probability = d_probability;
  }
  const Matrix<T> d_logits =
      ctx.scratch->template matrix<T>(saved.logits.extent(0), saved.logits.extent(1));
  z_loss_gradient<T>(ctx.space, config_.z_loss, saved.logits, config_.experts, ctx.update_tokens,
                     d_logits);
  router_->logits_backward(ctx, saved.logits, routing, feedback, d_logits);
  router_->project_backward(ctx, saved.x, d_logits, dx);
  watch.add_to(saved.seconds_router);
}

template class MoeLayer<float>;
template class MoeLayer<double>;

}  // namespace kokomoe
