// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/model/encoder.hpp"

#include "kokomoe/core/clear.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/parameters/products.hpp"

#include <algorithm>
#include <cmath>

namespace kokomoe {

namespace {

constexpr double embedding_deviation = 0.02;

/// The checked configuration, since members come to be before a constructor's body runs.
const EncoderConfig& checked(const EncoderConfig& config, const std::string& name) {
  const auto positive = [&](const char* key, int value) {
    if (value < 1)
      throw InputError(name + ": " + key + " must be at least 1, not " + std::to_string(value));
  };
  positive("vocabulary", config.vocabulary);
  positive("max_length", config.max_length);
  positive("d_model", config.moe.d_model);
  positive("d_hidden", config.moe.d_hidden);
  if (config.segments < 0 || config.embedding < 0)
    throw InputError(name + ": " + std::to_string(config.segments) +
                     " segments and embeddings of " + std::to_string(config.embedding) +
                     " channels: neither may be negative");
  return config;
}

BlockStackConfig stack_config(const EncoderConfig& config) {
  BlockStackConfig blocks;
  blocks.layers = config.layers;
  blocks.heads = config.heads;
  blocks.norm = config.norm;
  blocks.post_norm = config.post_norm;
  blocks.causal = false;
  blocks.bias = config.bias;
  blocks.dropout = config.dropout;
  blocks.attention_dropout = config.attention_dropout;
  blocks.moe_every = config.moe_every;
  blocks.moe = config.moe;
  blocks.moe.vocabulary = config.vocabulary;
  blocks.first_layer = config.first_layer;
  // Without a norm after each sum, branches start small; see DecoderLm.
  blocks.residual_scale = config.post_norm ? 1 : 1 / std::sqrt(2.0 * config.layers);
  return blocks;
}

template <class T>
std::unique_ptr<Rotary<T>> rotary_of(const EncoderConfig& config) {
  if (config.positions != Positions::rotary) return nullptr;
  return std::make_unique<Rotary<T>>(ExecutionSpace(), config.max_length,
                                     config.moe.d_model / std::max(1, config.heads));
}

/// y(t, s) = 1 for token t's segment s, else 0: the table's gradient is a product with it.
template <class T>
void mark_segments(const ExecutionSpace& space, const Vector<const int>& segments,
                   const Matrix<T>& y) {
  const int kinds = static_cast<int>(y.extent(1));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("model::mark_segments"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, static_cast<int>(y.extent(0))),
      KOKKOS_LAMBDA(const int t) {
        for (int s = 0; s < kinds; ++s) y(t, s) = segments(t) == s ? T(1) : T(0);
      });
}

}  // namespace

template <class T>
TextEmbedding<T>::TextEmbedding(const EncoderConfig& config, ParameterStore<T>& store,
                                const std::string& name)
    : width_(checked(config, name).embedding_width()),
      max_length_(config.max_length),
      segment_count_(config.segments),
      store_(&store),
      tokens_(config.vocabulary, width_, embedding_deviation, store, name),
      norm_(config.norm, width_, store, name + ".norm") {
  if (config.positions == Positions::learned)
    positions_.emplace(config.max_length, width_, embedding_deviation, store, name + ".positions",
                       "position");
  if (config.segments > 0)
    segments_.emplace(config.segments, width_, embedding_deviation, store, name + ".segments",
                      "segment");
}

template <class T>
void TextEmbedding<T>::forward(const StepContext& ctx, const Vector<const int>& segments,
                               const Matrix<T>& y, Saved& saved) const {
  if (ctx.tokens.max_length > max_length_)
    fail("TextEmbedding", "a sequence of " + std::to_string(ctx.tokens.max_length) +
                              " tokens exceeds max_length " + std::to_string(max_length_));
  const auto tokens = static_cast<std::size_t>(ctx.tokens.tokens);
  const std::size_t told = segments_ ? tokens : 0;
  if (segments.extent(0) != told)
    fail_shape("TextEmbedding", "segments", segments.extent(0), 1, told, 1);
  saved.segments = segments;
  const Matrix<T> sum = ctx.saved->template matrix<T>(tokens, static_cast<std::size_t>(width_));
  tokens_.forward(ctx, ctx.tokens.ids, sum, false);
  if (positions_) positions_->forward(ctx, ctx.tokens.position, sum, true);
  if (segments_) segments_->forward(ctx, segments, sum, true);
  norm_.forward(ctx, sum, y, saved.norm);
}

template <class T>
void TextEmbedding<T>::backward(const StepContext& ctx, const Saved& saved,
                                const Matrix<const T>& dy) const {
  ArenaScope scope(*ctx.scratch);
  const Matrix<T> dx = ctx.scratch->template matrix<T>(dy.extent(0), dy.extent(1));
  clear(ctx.space, dx);
  norm_.backward(ctx, saved.norm, dy, dx);
  if (segments_) {
    // A table of few rows: Embedding's backward would give each to one team.
    const Matrix<T> marks =
        ctx.scratch->template matrix<T>(dy.extent(0), static_cast<std::size_t>(segment_count_));
    mark_segments(ctx.space, saved.segments, marks);
    add_weight_gradient<T>(ctx, marks, dx, *store_, segments_->handle());
  }
  if (positions_) positions_->backward(ctx, ctx.tokens.position, dx);
  tokens_.backward(ctx, ctx.tokens.ids, dx);
}

template <class T>
Encoder<T>::Encoder(const EncoderConfig& config, ParameterStore<T>& store, const std::string& name,
                    std::shared_ptr<const TextEmbedding<T>> shared,
                    const std::string& embedding_name)
    : config_(checked(config, name)),
      embedding_(shared ? std::move(shared)
                        : std::make_shared<const TextEmbedding<T>>(config, store, embedding_name)),
      rotary_(rotary_of<T>(config)),
      stack_(stack_config(config), rotary_.get(), store, name) {
  const int width = config.embedding_width(), d = config.moe.d_model;
  if (embedding_->width() != width)
    throw InputError(name + ": the shared embedding has " + std::to_string(embedding_->width()) +
                     " channels, not " + std::to_string(width));
  if (width != d) projection_.emplace(width, d, true, store, name + ".projection");
  if (!config.post_norm) final_norm_.emplace(config.norm, d, store, name + ".final_norm");
}

template <class T>
Matrix<T> Encoder<T>::forward(const StepContext& ctx, const Vector<const int>& segments,
                              Saved& saved, const Matrix<double>& statistics,
                              const std::vector<Routing<T>>& replay) const {
  const Region region(KOKOMOE_LABEL("model::encoder"));
  if (!replay.empty() && static_cast<int>(replay.size()) != moe_layers())
    fail("Encoder::forward", std::to_string(replay.size()) + " routings for " +
                                 std::to_string(moe_layers()) + " MoE layers");
  const auto tokens = static_cast<std::size_t>(ctx.tokens.tokens);
  const auto rows = [&](int width) {
    return ctx.saved->template matrix<T>(tokens, static_cast<std::size_t>(width));
  };
  saved.embedded = rows(embedding_->width());
  embedding_->forward(ctx, segments, saved.embedded, saved.embedding);
  dropout<T>(ctx, config_.dropout, config_.first_layer, 0, saved.embedded, saved.embedded, false);
  Matrix<T> x = saved.embedded;
  if (projection_) {
    x = rows(config_.moe.d_model);
    projection_->forward(ctx, saved.embedded, x);
  }
  saved.features =
      stack_.forward(ctx, x, saved.blocks, statistics, replay.empty() ? nullptr : replay.data());
  if (final_norm_) {
    const Matrix<T> last = saved.features;
    saved.features = rows(config_.moe.d_model);
    final_norm_->forward(ctx, last, saved.features, saved.final_norm);
  }
  return saved.features;
}

template <class T>
void Encoder<T>::backward(const StepContext& ctx, Saved& saved, const Matrix<T>& d_features) const {
  const Region region(KOKOMOE_LABEL("model::encoder_backward"));
  ArenaScope scope(*ctx.scratch);
  const std::size_t tokens = d_features.extent(0);
  Matrix<T> dx = d_features;
  if (final_norm_) {
    dx = ctx.scratch->template matrix<T>(tokens, d_features.extent(1));
    clear(ctx.space, dx);
    final_norm_->backward(ctx, saved.final_norm, d_features, dx);
  }
  stack_.backward(ctx, saved.blocks, dx);
  Matrix<T> d_embedded = dx;
  if (projection_) {
    d_embedded = ctx.scratch->template matrix<T>(tokens, saved.embedded.extent(1));
    projection_->backward(ctx, saved.embedded, dx, d_embedded);
  }
  dropout<T>(ctx, config_.dropout, config_.first_layer, 0, d_embedded, d_embedded, false);
  embedding_->backward(ctx, saved.embedding, d_embedded);
}

template class TextEmbedding<float>;
template class TextEmbedding<double>;
template class Encoder<float>;
template class Encoder<double>;

}  // namespace kokomoe
