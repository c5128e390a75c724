// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/model/decoder_lm.hpp"

#include "kokomoe/core/clear.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/nn/dropout.hpp"
#include "kokomoe/parameters/products.hpp"

#include <cmath>

namespace kokomoe {

namespace {

constexpr double embedding_deviation = 0.02;

}  // namespace

template <class T>
DecoderLm<T>::DecoderLm(const DecoderConfig& config, ParameterStore<T>& store)
    : config_(config),
      store_(&store),
      embedding_(config.vocabulary, config.moe.d_model, embedding_deviation, store, "embedding"),
      final_norm_(config.norm, config.moe.d_model, store, "final_norm") {
  const int d = config.moe.d_model;
  if (config.heads < 1 || d % config.heads != 0)
    throw InputError(std::to_string(config.heads) + " heads do not divide d_model " +
                     std::to_string(d));
  if (config.positions == Positions::rotary)
    rotary_ = std::make_unique<Rotary<T>>(ExecutionSpace(), config.max_length, d / config.heads);
  else
    positions_.emplace(config.max_length, d, embedding_deviation, store, "positions", "position");

  BlockStackConfig blocks;
  blocks.layers = config.layers;
  blocks.heads = config.heads;
  blocks.norm = config.norm;
  blocks.bias = config.bias;
  blocks.dropout = config.dropout;
  blocks.attention_dropout = config.attention_dropout;
  blocks.moe_every = config.moe_every;
  blocks.moe = config.moe;
  blocks.moe.vocabulary = config.vocabulary;
  // Each residual branch starts small, so that the sum of all keeps its size (GPT-2's rule).
  blocks.residual_scale = 1 / std::sqrt(2.0 * config.layers);
  stack_.emplace(blocks, rotary_.get(), store, "blocks");
  if (!config.tied)
    head_ = store.add({"head.weight",
                       {static_cast<std::size_t>(config.vocabulary), static_cast<std::size_t>(d)},
                       Initializer::normal(embedding_deviation),
                       true,
                       false,
                       false,
                       {"vocabulary", "channel"}});
}

template <class T>
void DecoderLm<T>::embed(const StepContext& ctx, const Matrix<T>& x) const {
  if (ctx.tokens.max_length > config_.max_length)
    fail("DecoderLm", "a sequence of " + std::to_string(ctx.tokens.max_length) +
                          " tokens exceeds max_length " + std::to_string(config_.max_length));
  embedding_.forward(ctx, ctx.tokens.ids, x, false);
  if (positions_) positions_->forward(ctx, ctx.tokens.position, x, true);
  dropout<T>(ctx, config_.dropout, 0, 0, x, x, false);
}

template <class T>
Matrix<T> DecoderLm<T>::project(const StepContext& ctx, const Matrix<const T>& x,
                                Saved& saved) const {
  saved.features = ctx.saved->template matrix<T>(x.extent(0), x.extent(1));
  final_norm_.forward(ctx, x, saved.features, saved.final_norm);
  const Region region(KOKOMOE_LABEL("model::head"));
  const Matrix<T> logits =
      ctx.saved->template matrix<T>(x.extent(0), static_cast<std::size_t>(config_.vocabulary));
  multiply<T>(ctx, Transpose::yes, saved.features, store_->value(head()), false, logits);
  return logits;
}

template <class T>
Matrix<T> DecoderLm<T>::forward(const StepContext& ctx, Saved& saved,
                                const Matrix<double>& statistics,
                                const std::vector<Routing<T>>& replay) const {
  const Region region(KOKOMOE_LABEL("model::forward"));
  const auto tokens = static_cast<std::size_t>(ctx.tokens.tokens);
  const auto d = static_cast<std::size_t>(config_.moe.d_model);
  if (!replay.empty() && static_cast<int>(replay.size()) != moe_layers())
    fail("DecoderLm::forward", std::to_string(replay.size()) + " routings for " +
                                   std::to_string(moe_layers()) + " MoE layers");
  const Matrix<T> x = ctx.saved->template matrix<T>(tokens, d);
  embed(ctx, x);
  return project(
      ctx,
      stack_->forward(ctx, x, saved.blocks, statistics, replay.empty() ? nullptr : replay.data()),
      saved);
}

template <class T>
void DecoderLm<T>::backward(const StepContext& ctx, Saved& saved,
                            const Matrix<const T>& d_logits) const {
  const Region region(KOKOMOE_LABEL("model::backward"));
  ArenaScope scope(*ctx.scratch);
  const std::size_t tokens = saved.features.extent(0), d = saved.features.extent(1);
  const Matrix<T> d_features = ctx.scratch->template matrix<T>(tokens, d);
  const Matrix<T> dx = ctx.scratch->template matrix<T>(tokens, d);
  {
    const Region head_region(KOKOMOE_LABEL("model::head_backward"));
    add_weight_gradient<T>(ctx, d_logits, saved.features, *store_, head());
    multiply<T>(ctx, Transpose::no, d_logits, store_->value(head()), false, d_features);
  }
  clear(ctx.space, dx);
  final_norm_.backward(ctx, saved.final_norm, d_features, dx);
  stack_->backward(ctx, saved.blocks, dx);
  dropout<T>(ctx, config_.dropout, 0, 0, dx, dx, false);
  if (positions_) positions_->backward(ctx, ctx.tokens.position, dx);
  embedding_.backward(ctx, ctx.tokens.ids, dx);
}

template <class T>
Matrix<T> DecoderLm<T>::forward_cached(const StepContext& ctx, Saved& saved,
                                       const std::vector<KeyValueCache<T>>& caches) const {
  const auto tokens = static_cast<std::size_t>(ctx.tokens.tokens);
  const auto d = static_cast<std::size_t>(config_.moe.d_model);
  const Matrix<T> x = ctx.saved->template matrix<T>(tokens, d);
  embed(ctx, x);
  return project(ctx, stack_->forward_cached(ctx, x, saved.blocks, caches), saved);
}

template class DecoderLm<float>;
template class DecoderLm<double>;

}  // namespace kokomoe
