// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "bench_tools.hpp"

#include "kokomoe/moe/auxiliary_loss.hpp"
#include "kokomoe/moe/moe_layer.hpp"

#include <vector>

namespace kokomoe::app {

/// What a router costs without the experts.
struct RouterTimes {
  std::vector<double> seconds;  ///< forward and backward of each repeat
  double product_flops = 0;     ///< of x W^T, dz^T x and dz W
  std::size_t saved_bytes = 0, scratch_bytes = 0;
};

/// A layer's router by itself, forward and backward: logits, choice, statistics and the gradients
/// of the auxiliary losses, as MoeLayer calls them. What it counts (a by-product of dispatch) and
/// the gradients that it is given are made beforehand.
template <class T>
class RouterBench {
 public:
  RouterBench(const MoeLayer<T>& layer, ParameterStore<T>& store, int repeats)
      : layer_(layer), store_(store), repeats_(repeats) {}

  /// No times where the layer balances over another scope than the batch: that is not written here.
  RouterTimes measure(const StepContext& outer, const Matrix<const T>& x,
                      const Matrix<const T>& dy) {
    RouterTimes times;
    const MoeConfig& config = layer_.config();
    if (config.balance != 0 && config.balance_scope != BalanceScope::global) return times;
    Arena saved("bench::router_saved"), scratch("bench::router_scratch");
    StepContext ctx = outer;
    ctx.saved = &saved;
    ctx.scratch = &scratch;
    prepare(ctx, x);
    const Matrix<T> dx("bench::router_dx", x.extent(0), x.extent(1));
    constexpr int warm_up = 2;
    for (int i = 0; i < repeats_ + warm_up; ++i) {
      saved.reset();
      scratch.reset();
      store_.begin_update();
      Timer timer(ctx.space);
      step(ctx, x, dy, dx);
      if (i >= warm_up) times.seconds.push_back(timer.lap());
      ++ctx.step;
    }
    const double columns = layer_.router().logit_columns();
    times.product_flops = 6.0 * static_cast<double>(x.size()) * columns;
    times.saved_bytes = saved.high_water();
    times.scratch_bytes = scratch.high_water();
    return times;
  }

 private:
  void prepare(const StepContext& ctx, const Matrix<const T>& x) {
    const Matrix<T> z = layer_.router().project(ctx, x);
    const Routing<T> routing = layer_.router().route_logits(ctx, z, nullptr);
    const Vector<int> counts = count_assignments<T>(ctx.space, *ctx.saved, routing);
    counts_ = Vector<int>("bench::counts", counts.extent(0));
    Kokkos::deep_copy(ctx.space, counts_, counts);
    const auto slots = static_cast<std::size_t>(routing.slots());
    d_weight_ = Vector<T>("bench::d_weight", slots);
    fill(Matrix<T>(d_weight_.data(), 1, slots), 5, 1e-3);
  }

  void step(const StepContext& ctx, const Matrix<const T>& x, const Matrix<const T>& dy,
            const Matrix<T>& dx) const {
    const MoeConfig& config = layer_.config();
    const Router<T>& router = layer_.router();
    const auto experts = static_cast<std::size_t>(config.experts);
    const Matrix<T> z = router.project(ctx, x);
    const Routing<T> routing = router.route_logits(ctx, z, nullptr);
    const Matrix<T>& probability = routing.balance_probability.extent(0) != 0
                                       ? routing.balance_probability
                                       : routing.probability;
    const auto sums = ctx.saved->template vector<double>(
        static_cast<std::size_t>(LoadStatistics::width(config.experts)));
    gather_statistics<T>(ctx, counts_, probability, z, config.z_loss != 0, sums);
    router.add_auxiliary_loss(
        ctx, routing, Vector<double>(sums.data() + LoadStatistics::router_loss(config.experts), 1));

    const Vector<const double> counts(sums.data(), experts);
    RouterFeedback<T> feedback{d_weight_, dy, Matrix<const T>(), counts};
    if (config.balance != 0) {
      const Matrix<T> d_probability = ctx.scratch->template matrix<T>(x.extent(0), experts);
      balance_gradient<T>(ctx.space, config.balance, counts, ctx.update_tokens, d_probability);
      feedback.d_probability = d_probability;
    }
    const Matrix<T> d_z = ctx.scratch->template matrix<T>(z.extent(0), z.extent(1));
    z_loss_gradient<T>(ctx.space, config.z_loss, z, config.experts, ctx.update_tokens, d_z);
    router.logits_backward(ctx, z, routing, feedback, d_z);
    router.project_backward(ctx, x, d_z, dx);
  }

  const MoeLayer<T>& layer_;
  ParameterStore<T>& store_;
  int repeats_;
  Vector<int> counts_;
  Vector<T> d_weight_;
};

}  // namespace kokomoe::app
