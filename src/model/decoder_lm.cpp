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

Positions parse_positions(const std::string& name) {
  if (name == "rotary") return Positions::rotary;
  if (name == "learned") return Positions::learned;
  throw InputError("unknown positions \"" + name + "\": choose rotary or learned");
}

template <class T>
DecoderLm<T>::DecoderLm(const DecoderConfig& config, ParameterStore<T>& store)
    : config_(config),
      store_(&store),
      embedding_(config.vocabulary, config.moe.d_model, embedding_deviation, store, "embedding"),
      final_norm_(config.norm, config.moe.d_model, store, "final_norm") {
  const int d = config.moe.d_model;
  if (config.layers < 1 || config.layers > 255)
    throw InputError("layers must lie in [1, 255], not " + std::to_string(config.layers));
  if (config.heads < 1 || d % config.heads != 0)
    throw InputError(std::to_string(config.heads) + " heads do not divide d_model " +
                     std::to_string(d));
  if (config.positions == Positions::rotary)
    rotary_ = std::make_unique<Rotary<T>>(ExecutionSpace(), config.max_length, d / config.heads);
  else
    positions_.emplace(config.max_length, d, embedding_deviation, store, "positions", "position");

  // Each residual branch starts small, so that the sum of all keeps its size (GPT-2's rule).
  const double residual_scale = 1 / std::sqrt(2.0 * config.layers);
  blocks_.reserve(static_cast<std::size_t>(config.layers));
  for (int i = 0; i < config.layers; ++i) {
    BlockConfig block;
    block.attention = {d, config.heads, config.bias, config.attention_dropout, residual_scale, i};
    block.norm = config.norm;
    block.dropout = config.dropout;
    block.sparse = config.moe_every > 0 && i % config.moe_every == 0;
    block.moe = config.moe;
    block.moe.output_scale = residual_scale;
    block.moe.causal = true;
    block.moe.vocabulary = config.vocabulary;
    block.layer = i;
    blocks_.emplace_back(block, rotary_.get(), store, "blocks." + std::to_string(i));
  }
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
int DecoderLm<T>::moe_layers() const {
  int count = 0;
  for (const Block<T>& block : blocks_) count += block.moe() != nullptr ? 1 : 0;
  return count;
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
  saved.blocks.resize(blocks_.size());
  Matrix<T> x = ctx.saved->template matrix<T>(tokens, d);
  embed(ctx, x);
  std::size_t layer = 0;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const Matrix<T> y = ctx.saved->template matrix<T>(tokens, d);
    Vector<double> sums;
    const Routing<T>* routing = nullptr;
    if (blocks_[i].moe() != nullptr) {
      if (statistics.extent(0) != 0)
        sums = Vector<double>(statistics.data() + layer * statistics.extent(1),
                              statistics.extent(1));
      if (!replay.empty() && (replay[layer].tokens > 0 || tokens == 0)) routing = &replay[layer];
      ++layer;
    }
    blocks_[i].forward(ctx, x, y, saved.blocks[i], sums, routing);
    x = y;
  }
  return project(ctx, x, saved);
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
  for (std::size_t i = blocks_.size(); i-- > 0;) blocks_[i].backward(ctx, saved.blocks[i], dx);
  dropout<T>(ctx, config_.dropout, 0, 0, dx, dx, false);
  if (positions_) positions_->backward(ctx, ctx.tokens.position, dx);
  embedding_.backward(ctx, ctx.tokens.ids, dx);
}

template <class T>
Matrix<T> DecoderLm<T>::forward_cached(const StepContext& ctx, Saved& saved,
                                       const std::vector<KeyValueCache<T>>& caches) const {
  const auto tokens = static_cast<std::size_t>(ctx.tokens.tokens);
  const auto d = static_cast<std::size_t>(config_.moe.d_model);
  saved.blocks.resize(blocks_.size());
  Matrix<T> x = ctx.saved->template matrix<T>(tokens, d);
  embed(ctx, x);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const Matrix<T> y = ctx.saved->template matrix<T>(tokens, d);
    blocks_[i].forward_cached(ctx, x, y, saved.blocks[i], caches[i]);
    x = y;
  }
  return project(ctx, x, saved);
}

template <class T>
std::vector<KeyValueCache<T>> DecoderLm<T>::make_caches(int sequences, int length) const {
  std::vector<KeyValueCache<T>> caches(blocks_.size());
  for (KeyValueCache<T>& cache : caches) {
    cache.length = length;
    cache.rows = Matrix<T>("kokomoe::model::cache",
                           static_cast<std::size_t>(sequences) * static_cast<std::size_t>(length),
                           2 * static_cast<std::size_t>(config_.moe.d_model));
  }
  return caches;
}

template class DecoderLm<float>;
template class DecoderLm<double>;

}  // namespace kokomoe
