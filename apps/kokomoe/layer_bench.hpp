// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "bench_tools.hpp"
#include "router_bench.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/moe_layer.hpp"

#include <algorithm>
#include <string>
#include <vector>

namespace kokomoe::app {

/// How tokens spread over experts.
enum class Load {
  random,    ///< as a router at its initial values does with random tokens
  balanced,  ///< alike for every expert
  skewed     ///< half of the tokens to the first expert, the others alike
};

struct LayerOptions {
  int tokens = 4096, d_model = 512, d_hidden = 2048, repeats = 11, router_repeats = 50;
  std::vector<int> experts = {4, 16, 64};
  std::vector<std::string> routers = {"switch", "sparsemixer"}, activations = {"full"},
                           weights = {"full"};
  std::string dtype = "float", activation = "relu", routing = "random", kernels = "auto", json;

  Load load() const {
    return routing == "balanced" ? Load::balanced
           : routing == "skewed" ? Load::skewed
                                 : Load::random;
  }
};

/// What was measured of one layer.
struct LayerCase {
  std::string router;
  int experts = 0;
  bool round_kept = false, round_weights = false;
  std::vector<double> forward, backward, both;  ///< seconds of each repeat
  std::vector<double> parts[4];  ///< router, dispatch, experts, combine; may be empty
  double rows = 0;               ///< that experts computed, over all repeats
  double largest_over_mean = 1;  ///< load of the busiest expert, in the last repeat
  std::size_t saved_bytes = 0, scratch_bytes = 0;
  RouterTimes alone;

  void forget() {
    forward.clear();
    backward.clear();
    both.clear();
    for (auto& part : parts) part.clear();
    rows = 0;
  }
  void add(double forward_seconds, double backward_seconds) {
    forward.push_back(forward_seconds);
    backward.push_back(backward_seconds);
    both.push_back(forward_seconds + backward_seconds);
  }
};

/// What all layers are run on, one after the other.
template <class T>
struct LayerInputs {
  static constexpr int vocabulary = 256;

  explicit LayerInputs(const LayerOptions& options)
      : x("bench::x", options.tokens, options.d_model),
        y("bench::y", options.tokens, options.d_model),
        dy("bench::dy", options.tokens, options.d_model),
        dx("bench::dx", options.tokens, options.d_model) {
    fill(x, 1, 1.7);
    fill(dy, 2, 1e-3);
    ctx.communicator = &communicator;
    ctx.saved = &saved;
    ctx.scratch = &scratch;
    ctx.tokens = number_rows(ctx.space, options.tokens);
    ctx.seed = 1;
    ctx.update_tokens = options.tokens;
    ctx.loss_scale = 1.0 / options.tokens;
    // For routers that read token ids or losses: some of each.
    ctx.tokens.ids = some_ids(options.tokens);
    const Vector<double> loss("bench::loss", 1);
    Kokkos::deep_copy(loss, static_cast<double>(options.tokens));
    ctx.sequence_loss = loss;
  }
  LayerInputs(const LayerInputs&) = delete;  // the context points into it
  LayerInputs& operator=(const LayerInputs&) = delete;

  static Vector<int> some_ids(int tokens) {
    const Vector<int> ids("bench::ids", static_cast<std::size_t>(tokens));
    Kokkos::parallel_for(
        KOKOMOE_LABEL("bench::ids"), Kokkos::RangePolicy<ExecutionSpace>(0, tokens),
        KOKKOS_LAMBDA(const int t) { ids(t) = t * 37 % vocabulary; });
    Kokkos::fence(KOKOMOE_LABEL("bench::ids"));
    return ids;
  }

  Communicator communicator;
  Arena saved{"bench::saved"}, scratch{"bench::scratch"};
  Matrix<T> x, y, dy, dx;
  StepContext ctx;
};

/// x with a multiple of one router row added to each token, so that its logit there exceeds the
/// others by about `margin`: the router itself then chooses what `load` asks for.
template <class T>
Matrix<T> steered(const Matrix<const T>& x, const Matrix<const T>& weight, int experts, Load load) {
  constexpr T margin = 30;
  const Matrix<T> result("bench::steered", x.extent(0), x.extent(1));
  const int columns = static_cast<int>(x.extent(1));
  const bool skewed = load == Load::skewed && experts > 1;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("bench::steer"), Kokkos::RangePolicy<ExecutionSpace>(0, x.extent(0)),
      KOKKOS_LAMBDA(const int t) {
        const int e = !skewed ? t % experts : t % 2 == 0 ? 0 : 1 + t / 2 % (experts - 1);
        T square = 0;
        for (int j = 0; j < columns; ++j) square += weight(e, j) * weight(e, j);
        for (int j = 0; j < columns; ++j) result(t, j) = x(t, j) + margin / square * weight(e, j);
      });
  Kokkos::fence(KOKOMOE_LABEL("bench::steer"));
  return result;
}

/// One feed-forward of an expert's size, which every token passes.
template <class T>
class DenseBench {
 public:
  DenseBench(const LayerOptions& options, bool round_kept, LayerInputs<T>& inputs)
      : inputs_(inputs),
        experts_({1, options.d_model, options.d_hidden, parse_activation(options.activation), true,
                  false, 1, parse_expert_kernels(options.kernels)},
                 store_, "dense"),
        rows_{0, options.tokens} {
    store_.allocate(inputs.ctx.space, 1);
    result.router = "dense";
    result.experts = 1;
    result.round_kept = round_kept;
  }

  void run() {
    inputs_.saved.reset();
    inputs_.scratch.reset();
    const auto [forward, backward] = step(inputs_.saved, inputs_.scratch);
    result.add(forward, backward);
  }
  void measure_memory() {
    Arena saved("bench::peak_saved"), scratch("bench::peak_scratch");
    step(saved, scratch);
    result.saved_bytes = saved.high_water();
    result.scratch_bytes = scratch.high_water();
  }

  LayerCase result;

 private:
  std::pair<double, double> step(Arena& saved, Arena& scratch) {
    const ExecutionSpace& space = inputs_.ctx.space;
    typename Experts<T>::Saved state;
    store_.begin_update();
    Timer timer(space);
    experts_.forward(space, saved, scratch, inputs_.x, rows_, {}, inputs_.y, state,
                     {false, {}, result.round_kept});
    const double forward = timer.lap();
    experts_.backward(space, scratch, state, rows_, {}, inputs_.dy, {}, inputs_.dx, {});
    return {forward, timer.lap()};
  }

  LayerInputs<T>& inputs_;
  ParameterStore<T> store_;
  Experts<T> experts_;
  std::array<int, 2> rows_;
};

template <class T>
class SparseBench {
 public:
  SparseBench(const LayerOptions& options, const std::string& router, int experts, bool round_kept,
              bool round_weights, LayerInputs<T>& inputs)
      : inputs_(inputs),
        layer_(config(options, router, experts, round_weights), 0, store_, "moe"),
        x_(inputs.x),
        router_(layer_, store_, options.router_repeats) {
    store_.allocate(inputs.ctx.space, 1);
    result.router = router;
    result.experts = experts;
    result.round_kept = round_kept;
    result.round_weights = round_weights;
    if (options.load() != Load::random)
      x_ = steered<T>(x_, logit_weight(), experts, options.load());
  }

  void run() {
    // Timed whole first; the shares come from a second pass whose parts are fenced.
    for (const bool parts : {false, true}) {
      layer_.time_parts(parts);
      inputs_.saved.reset();
      inputs_.scratch.reset();
      const auto [forward, backward] = step(inputs_.ctx);
      if (parts) {
        const double seconds[] = {state_.seconds_router, state_.seconds_dispatch,
                                  state_.seconds_experts, state_.seconds_combine};
        for (int i = 0; i < 4; ++i) result.parts[i].push_back(seconds[i]);
      } else {
        result.add(forward, backward);
        result.rows += state_.plan.rows();
        ++inputs_.ctx.step;
      }
    }
    result.largest_over_mean = largest_over_mean();
  }

  /// With arenas of its own, whose high-water marks are this layer's alone.
  void measure_memory() {
    Arena saved("bench::peak_saved"), scratch("bench::peak_scratch");
    StepContext ctx = inputs_.ctx;
    ctx.saved = &saved;
    ctx.scratch = &scratch;
    layer_.time_parts(false);
    step(ctx);
    result.saved_bytes = saved.high_water();
    result.scratch_bytes = scratch.high_water();
  }

  void measure_router() { result.alone = router_.measure(inputs_.ctx, x_, inputs_.dy); }

  LayerCase result;

 private:
  static MoeConfig config(const LayerOptions& options, const std::string& router, int experts,
                          bool round_weights) {
    MoeConfig config;
    config.d_model = options.d_model;
    config.d_hidden = options.d_hidden;
    config.experts = experts;
    config.activation = parse_activation(options.activation);
    config.bias = true;
    config.kernels = parse_expert_kernels(options.kernels);
    config.router = router;
    config.round_weights = round_weights;
    set_router_defaults(config);
    config.vocabulary = LayerInputs<T>::vocabulary;
    return config;
  }

  Matrix<T> logit_weight() const {
    const ParameterHandle handle = store_.find("moe.router.weight");
    if (!handle.valid() || store_.value(handle).extent(1) != x_.extent(1))
      throw InputError("--routing: router \"" + result.router +
                       "\" has no logits x W^T that tokens could be steered by");
    return store_.value(handle);
  }

  std::pair<double, double> step(StepContext ctx) {
    ctx.round_kept = result.round_kept;
    store_.begin_update();
    Timer timer(ctx.space);
    layer_.forward(ctx, x_, inputs_.y, state_);
    const double forward = timer.lap();
    layer_.backward(ctx, state_, inputs_.dy, inputs_.dx);
    return {forward, timer.lap()};
  }

  double largest_over_mean() const {
    const auto counts = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), state_.counts);
    double largest = 0, sum = 0;
    for (std::size_t e = 0; e < counts.extent(0); ++e) {
      largest = std::max(largest, counts(e));
      sum += counts(e);
    }
    return sum > 0 ? largest * static_cast<double>(counts.extent(0)) / sum : 1;
  }

  LayerInputs<T>& inputs_;
  ParameterStore<T> store_;
  MoeLayer<T> layer_;
  typename MoeLayer<T>::Saved state_;
  Matrix<T> x_;
  RouterBench<T> router_;
};

}  // namespace kokomoe::app
