// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/moe_layer.hpp"
#include "kokomoe/nn/optimizer.hpp"
#include "kokomoe/study/fidelity.hpp"
#include "study/host_copies.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace kokomoe {

using namespace study;

namespace {

constexpr int channels = 16, cluster_channels = 4, hidden = 32, evaluation_tokens = 4096;

/// Tokens of hidden clusters: four rotated channels tell the cluster, the rest is noise, and the
/// target is the cluster's own linear map of the token. An expert is too narrow for two maps.
class PlantedTask {
 public:
  PlantedTask(int clusters, std::uint64_t seed) : clusters_(clusters), engine_(seed) {
    fill(centers_, clusters * cluster_channels, 2);
    fill(maps_, clusters * channels * channels, 1 / std::sqrt(static_cast<double>(channels)));
    // A random rotation, by Gram-Schmidt.
    fill(rotation_, channels * channels, 1);
    for (int i = 0; i < channels; ++i) {
      for (int j = 0; j < i; ++j) {
        const double dot = std::inner_product(row(i), row(i) + channels, row(j), 0.0);
        for (int c = 0; c < channels; ++c) row(i)[c] -= dot * row(j)[c];
      }
      const double norm = std::sqrt(std::inner_product(row(i), row(i) + channels, row(i), 0.0));
      for (int c = 0; c < channels; ++c) row(i)[c] /= norm;
    }
  }

  /// `tokens` new tokens, their targets and clusters.
  void draw(int tokens, std::vector<float>& x, std::vector<float>& target,
            std::vector<int>& cluster) {
    x.assign(static_cast<std::size_t>(tokens) * channels, 0);
    target = x;
    cluster.resize(static_cast<std::size_t>(tokens));
    std::vector<double> raw(channels);
    for (int t = 0; t < tokens; ++t) {
      const int j = static_cast<int>(engine_() % static_cast<std::uint64_t>(clusters_));
      cluster[static_cast<std::size_t>(t)] = j;
      for (int c = 0; c < channels; ++c) raw[static_cast<std::size_t>(c)] = normal_(engine_);
      for (int c = 0; c < cluster_channels; ++c)
        raw[static_cast<std::size_t>(c)] =
            centers_[static_cast<std::size_t>(j * cluster_channels + c)] +
            0.3 * raw[static_cast<std::size_t>(c)];
      float* const to = x.data() + static_cast<std::ptrdiff_t>(t) * channels;
      for (int c = 0; c < channels; ++c)
        to[c] = static_cast<float>(std::inner_product(row(c), row(c) + channels, raw.begin(), 0.0));
      const double* const map = maps_.data() + static_cast<std::ptrdiff_t>(j) * channels * channels;
      for (int c = 0; c < channels; ++c)
        target[static_cast<std::size_t>(t * channels + c)] =
            static_cast<float>(std::inner_product(to, to + channels, map + c * channels, 0.0));
    }
  }

 private:
  void fill(std::vector<double>& values, int count, double deviation) {
    values.resize(static_cast<std::size_t>(count));
    for (double& value : values) value = deviation * normal_(engine_);
  }
  double* row(int i) { return rotation_.data() + static_cast<std::ptrdiff_t>(i) * channels; }

  int clusters_;
  std::mt19937_64 engine_;
  std::normal_distribution<double> normal_;
  std::vector<double> centers_, maps_, rotation_;
};

/// dy = (y - target) scale, and each token's share of the loss, |y - target|^2 scale / 2.
void squared_loss(const ExecutionSpace& space, const Matrix<const float>& y,
                  const Matrix<const float>& target, float scale, const Matrix<float>& dy,
                  const Vector<double>& loss) {
  Kokkos::parallel_for(
      KOKOMOE_LABEL("study::squared_loss"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, y.extent(0)), KOKKOS_LAMBDA(const int t) {
        double sum = 0;
        for (int c = 0; c < channels; ++c) {
          const float difference = y(t, c) - target(t, c);
          dy(t, c) = scale * difference;
          sum += 0.5 * scale * difference * difference;
        }
        loss(t) = sum;
      });
}

void multiply(const ExecutionSpace& space, const Vector<float>& values, float factor) {
  Kokkos::parallel_for(
      KOKOMOE_LABEL("study::multiply"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, values.extent(0)),
      KOKKOS_LAMBDA(const std::size_t i) { values(i) *= factor; });
}

struct Outcome {
  double loss = 0;    ///< in evaluation, a channel
  double purity = 0;  ///< share of tokens whose expert is mostly theirs
};

class PlantedRun {
 public:
  PlantedRun(const FidelityConfig& config, const std::string& router, bool frozen,
             std::uint64_t seed)
      : config_(config),
        frozen_(frozen),
        seed_(seed),
        layer_(layer_config(config, router), 0, store_, "moe") {
    if (frozen) store_.freeze("moe.router.*");
    store_.allocate(space_, seed);
    alone_token_ = layer_.router().estimator().needs_sequence_loss;
  }

  Outcome run() {
    PlantedTask task(config_.clusters, seed_);
    std::vector<float> x, target;
    std::vector<int> cluster;
    for (std::int64_t step = 0; step < config_.steps; ++step) {
      task.draw(config_.batch_tokens, x, target, cluster);
      update(step, x, target);
    }
    task.draw(evaluation_tokens, x, target, cluster);
    return evaluate(x, target, cluster);
  }

 private:
  static MoeConfig layer_config(const FidelityConfig& config, const std::string& router) {
    MoeConfig layer;
    layer.d_model = channels;
    layer.d_hidden = hidden;
    layer.experts = config.clusters;
    layer.activation = Activation::relu;
    layer.bias = true;
    layer.router = router;
    set_router_defaults(layer);
    const RouterInfo& info = router_info(router);
    if (info.takes_k && config.planted_k > 0) layer.k = config.planted_k;
    // At random a ReLU keeps half of the experts on: trained and frozen shall have equal work.
    if (info.k_is_target) layer.k = std::max(1, config.clusters / 2);
    return layer;
  }

  void set_batch(const std::vector<float>& x, const std::vector<float>& target) {
    const std::size_t tokens = x.size() / channels;
    if (x_.extent(0) != tokens) {
      x_ = Matrix<float>("kokomoe::study::x", tokens, channels);
      target_ = Matrix<float>("kokomoe::study::target", tokens, channels);
      y_ = Matrix<float>("kokomoe::study::y", tokens, channels);
      dy_ = Matrix<float>("kokomoe::study::dy", tokens, channels);
      dx_ = Matrix<float>("kokomoe::study::dx", tokens, channels);
      loss_ = Vector<double>("kokomoe::study::loss", tokens);
      ctx_.tokens = number_rows(space_, static_cast<int>(tokens));
      if (alone_token_) each_token_a_sequence(tokens);
    }
    to_device(x_, x);
    to_device(target_, target);
    saved_arena_.reset();
    scratch_.reset();
    ctx_.space = space_;
    ctx_.communicator = &alone_;
    ctx_.saved = &saved_arena_;
    ctx_.scratch = &scratch_;
    ctx_.seed = seed_;
    ctx_.update_tokens = static_cast<double>(tokens);
    ctx_.loss_scale = 1;
  }

  void each_token_a_sequence(std::size_t tokens) {
    const Vector<int> offsets("kokomoe::study::offsets", tokens + 1);
    std::vector<int> host(tokens + 1);
    std::iota(host.begin(), host.end(), 0);
    to_device(offsets, host);
    ctx_.tokens.sequences = static_cast<int>(tokens);
    ctx_.tokens.max_length = 1;
    ctx_.tokens.sequence_offsets = offsets;
  }

  void update(std::int64_t step, const std::vector<float>& x, const std::vector<float>& target) {
    set_batch(x, target);
    ctx_.training = true;
    ctx_.step = static_cast<std::uint64_t>(step);
    const std::size_t width =
        static_cast<std::size_t>(LoadStatistics::width(config_.clusters));
    const Vector<double> statistics = saved_arena_.vector<double>(width);
    store_.begin_update();
    layer_.forward(ctx_, x_, y_, saved_, statistics);
    const float scale = 1.0f / static_cast<float>(config_.batch_tokens * channels);
    squared_loss(space_, y_, target_, scale, dy_, loss_);
    ctx_.sequence_loss = alone_token_ ? Vector<const double>(loss_) : Vector<const double>();
    layer_.backward(ctx_, saved_, dy_, dx_);
    store_.finish_gradients(space_);
    if (config_.router_gradient != 1 && !frozen_)
      for (std::size_t i = 0; i < store_.entries().size(); ++i) {
        const auto& entry = store_.entries()[i];
        if (!entry.spec.state && entry.spec.name.rfind("moe.router.", 0) == 0)
          multiply(space_, store_.gradient_vector({static_cast<int>(i)}),
                   static_cast<float>(config_.router_gradient));
      }
    const double norm = gradient_norm<float>(space_, scratch_, store_);
    adamw_step<float>(space_, {0.9, 0.98, 1e-8, 0}, config_.learning_rate, clip_factor(norm, 1),
                      step + 1, store_);
    // State moves in the frozen run too: what Default MoE's table gives is not the router's merit.
    layer_.end_step(ctx_, {Vector<const double>(statistics.data(),
                                                static_cast<std::size_t>(config_.clusters)),
                           static_cast<double>(config_.batch_tokens)});
  }

  Outcome evaluate(const std::vector<float>& x, const std::vector<float>& target,
                   const std::vector<int>& cluster) {
    set_batch(x, target);
    ctx_.training = false;
    layer_.forward(ctx_, x_, y_, saved_);
    squared_loss(space_, y_, target_, 1.0f, dy_, loss_);
    space_.fence("kokomoe::study::evaluate");
    Outcome outcome;
    for (const double value : to_host(loss_))
      outcome.loss += 2 * value / static_cast<double>(cluster.size() * channels);
    outcome.purity = purity(cluster);
    return outcome;
  }

  /// Each token stands for the expert of its largest weight; an expert's tokens of its most frequent
  /// cluster count.
  double purity(const std::vector<int>& cluster) const {
    const Routing<float>& routing = saved_.routing;
    const std::vector<int> token = to_host(routing.token), expert = to_host(routing.expert);
    const std::vector<int> row = to_host(saved_.plan.row_of_slot);
    const std::vector<float> weight = to_host(routing.weight);
    std::vector<int> best(cluster.size(), -1);
    for (std::size_t n = 0; n < token.size(); ++n) {
      if (row[n] < 0) continue;
      int& slot = best[static_cast<std::size_t>(token[n])];
      if (slot < 0 || weight[n] > weight[static_cast<std::size_t>(slot)]) slot = static_cast<int>(n);
    }
    const auto count = static_cast<std::size_t>(config_.clusters);
    std::vector<int> table(count * count, 0);
    int total = 0;
    for (std::size_t t = 0; t < best.size(); ++t) {
      if (best[t] < 0) continue;
      ++table[static_cast<std::size_t>(expert[static_cast<std::size_t>(best[t])]) * count +
              static_cast<std::size_t>(cluster[t])];
      ++total;
    }
    int pure = 0;
    for (std::size_t e = 0; e < count; ++e)
      pure += *std::max_element(table.begin() + static_cast<std::ptrdiff_t>(e * count),
                                table.begin() + static_cast<std::ptrdiff_t>((e + 1) * count));
    return total == 0 ? 0 : static_cast<double>(pure) / total;
  }

  FidelityConfig config_;
  bool frozen_;
  std::uint64_t seed_;
  ExecutionSpace space_;
  ParameterStore<float> store_;
  MoeLayer<float> layer_;
  bool alone_token_ = false;
  Communicator alone_;
  Arena saved_arena_{"kokomoe::study::saved"}, scratch_{"kokomoe::study::scratch"};
  StepContext ctx_;
  MoeLayer<float>::Saved saved_;
  Matrix<float> x_, target_, y_, dy_, dx_;
  Vector<double> loss_;
};

}  // namespace

std::vector<PlantedResult> fidelity_planted(const FidelityConfig& config) {
  std::vector<PlantedResult> results;
  for (const std::string& router : config.routers) {
    PlantedResult result;
    result.router = router;
    result.passed = true;
    double trained = 0, frozen = 0;
    for (int s = 0; s < config.seeds; ++s) {
      const std::uint64_t seed = config.seed + static_cast<std::uint64_t>(s);
      const Outcome learnt = PlantedRun(config, router, false, seed).run();
      const Outcome random = PlantedRun(config, router, true, seed).run();
      result.losses.push_back(learnt.loss);
      result.frozen_losses.push_back(random.loss);
      trained += learnt.loss / config.seeds;
      frozen += random.loss / config.seeds;
      result.purity += learnt.purity / config.seeds;
      result.frozen_purity += random.purity / config.seeds;
    }
    result.gain = 1 - trained / frozen;
    // Written so that a loss that is not a number fails.
    result.passed = result.gain >= config.margin;
    results.push_back(result);
  }
  return results;
}

std::vector<std::string> trainable_routers() {
  std::vector<std::string> names;
  for (const RouterInfo& router : router_registry())
    if (router.logits) names.push_back(router.name);
  return names;
}

}  // namespace kokomoe
