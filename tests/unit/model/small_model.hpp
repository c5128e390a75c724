// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/model/decoder_lm.hpp"
#include "kokomoe/nn/cross_entropy.hpp"
#include "support/packed_step.hpp"

#include <string>
#include <vector>

namespace kokomoe::test {

constexpr int small_vocabulary = 11;

/// Two layers: an MoE one and a dense one.
inline DecoderConfig small_config(const std::string& router, int k) {
  DecoderConfig config;
  config.vocabulary = small_vocabulary;
  config.layers = 2;
  config.heads = 2;
  config.max_length = 40;
  config.bias = true;
  config.moe_every = 2;
  config.moe.d_model = 8;
  config.moe.d_hidden = 6;
  config.moe.experts = 3;
  config.moe.k = k;
  config.moe.activation = Activation::gelu;
  config.moe.bias = true;
  config.moe.output_gain = true;
  config.moe.router = router;
  config.moe.balance = 0.05;
  config.moe.z_loss = 0.02;
  return config;
}

/// A decoder with random parameters of a size that makes every gradient matter.
template <class T>
struct SmallModel {
  explicit SmallModel(const DecoderConfig& config, bool exact = false) : model(config, store) {
    if (exact) store.sum_exactly();
    store.allocate(ExecutionSpace(), 1);
    Draw draw(31);
    for (const auto& entry : store.entries())
      fill_device(store.value_vector(store.find(entry.spec.name)), draw.many<T>(entry.size, 0.6));
    statistics =
        Matrix<double>("kokomoe::test::statistics", static_cast<std::size_t>(model.moe_layers()),
                       static_cast<std::size_t>(LoadStatistics::width(config.moe.experts)));
  }

  /// Task and auxiliary loss; gradients too when asked for.
  double loss(PackedStep& step, double smoothing, bool backward,
              const std::vector<Routing<T>>& replay) {
    step.reset();
    const Matrix<T> logits = model.forward(step.ctx, saved, statistics, replay);
    const Vector<double> sums = step.scratch.template vector<double>(CrossEntropySums::width);
    cross_entropy<T>(step.ctx, logits, step.ctx.tokens.targets, smoothing, backward, sums);
    double result = on_host(sums)[0] * step.ctx.loss_scale;
    const std::vector<double> rows = on_host(statistics);
    const MoeConfig& moe = model.config().moe;
    const std::size_t width = statistics.extent(1);
    for (std::size_t l = 0; l < statistics.extent(0); ++l) {
      const LoadMetrics load = load_metrics(std::span(rows).subspan(l * width, width), moe.experts,
                                            step.ctx.update_tokens);
      result += moe.balance * load.balance + moe.z_loss * load.z_square;
    }
    if (backward) {
      store.begin_update();
      model.backward(step.ctx, saved, logits);
      store.finish_gradients(step.ctx.space);
    }
    return result;
  }

  /// What the last forward decided, one Routing for each MoE layer.
  std::vector<Routing<T>> recorded() const {
    std::vector<Routing<T>> routings;
    for (std::size_t i = 0; i < model.blocks().size(); ++i)
      if (model.blocks()[i].moe() != nullptr)
        routings.push_back(saved.blocks[i].moe.routing.clone(ExecutionSpace()));
    return routings;
  }

  ParameterStore<T> store;
  DecoderLm<T> model;
  Matrix<double> statistics;
  typename DecoderLm<T>::Saved saved;
};

}  // namespace kokomoe::test
