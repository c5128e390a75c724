// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/model/encoder_decoder.hpp"

#include "kokomoe/core/clear.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/parameters/products.hpp"

#include <cmath>

namespace kokomoe {

namespace {

BlockStackConfig stack(const EncoderDecoderConfig& config, bool decoder) {
  BlockStackConfig blocks;
  blocks.layers = decoder ? config.decoder_layers : config.encoder_layers;
  blocks.heads = config.heads;
  blocks.norm = config.norm;
  blocks.post_norm = config.post_norm;
  blocks.causal = decoder;
  blocks.cross = decoder;
  blocks.bias = config.bias;
  blocks.dropout = config.dropout;
  blocks.attention_dropout = config.attention_dropout;
  blocks.moe_every = config.moe_every;
  blocks.moe = config.moe;
  blocks.moe.vocabulary = config.vocabulary;
  blocks.first_layer = decoder ? config.encoder_layers : 0;
  // Without a norm after each sum, branches start small; see DecoderLm.
  const int branches = decoder ? 3 : 2;
  blocks.residual_scale =
      config.post_norm ? 1 : 1 / std::sqrt(static_cast<double>(branches) * blocks.layers);
  return blocks;
}

/// Rows [first, first + rows).
Matrix<double> some_rows(const Matrix<double>& all, int first, int rows) {
  if (all.extent(0) == 0) return {};
  return Matrix<double>(all.data() + static_cast<std::size_t>(first) * all.extent(1),
                        static_cast<std::size_t>(rows), all.extent(1));
}

template <class T>
Matrix<T> zeros(const ExecutionSpace& space, Arena& arena, std::size_t rows, std::size_t columns) {
  const Matrix<T> x = arena.matrix<T>(rows, columns);
  clear(space, x);
  return x;
}

}  // namespace

template <class T>
EncoderDecoder<T>::EncoderDecoder(const EncoderDecoderConfig& config, ParameterStore<T>& store)
    : config_(config),
      store_(&store),
      embedding_(config.vocabulary, config.moe.d_model,
                 1 / std::sqrt(static_cast<double>(config.moe.d_model)), store, "embedding"),
      positions_(ExecutionSpace(), config.max_length, config.moe.d_model),
      encoder_(stack(config, false), nullptr, store, "encoder"),
      decoder_(stack(config, true), nullptr, store, "decoder") {
  if (config.post_norm) return;
  encoder_norm_.emplace(config.norm, config.moe.d_model, store, "encoder_norm");
  decoder_norm_.emplace(config.norm, config.moe.d_model, store, "decoder_norm");
}

template <class T>
void EncoderDecoder<T>::embed(const StepContext& ctx, int layer, const Matrix<T>& x) const {
  embedding_.forward(ctx, ctx.tokens.ids, x, false);
  scale_rows<T>(ctx.space, std::sqrt(static_cast<double>(config_.moe.d_model)), x);
  positions_.add(ctx, x);
  dropout<T>(ctx, config_.dropout, layer, 0, x, x, false);
}

template <class T>
void EncoderDecoder<T>::embed_backward(const StepContext& ctx, int layer,
                                       const Matrix<T>& dx) const {
  dropout<T>(ctx, config_.dropout, layer, 0, dx, dx, false);
  scale_rows<T>(ctx.space, std::sqrt(static_cast<double>(config_.moe.d_model)), dx);
  embedding_.backward(ctx, ctx.tokens.ids, dx);
}

template <class T>
Matrix<T> EncoderDecoder<T>::finish(const StepContext& ctx, const std::optional<Norm<T>>& norm,
                                    const Matrix<T>& x, typename Norm<T>::Saved& saved) const {
  if (!norm) return x;
  const Matrix<T> y = ctx.saved->template matrix<T>(x.extent(0), x.extent(1));
  norm->forward(ctx, x, y, saved);
  return y;
}

template <class T>
Matrix<T> EncoderDecoder<T>::project(const StepContext& ctx, const Matrix<T>& x,
                                     Saved& saved) const {
  saved.features = finish(ctx, decoder_norm_, x, saved.decoder_norm);
  const Region region(KOKOMOE_LABEL("model::head"));
  const Matrix<T> logits =
      ctx.saved->template matrix<T>(x.extent(0), static_cast<std::size_t>(config_.vocabulary));
  multiply<T>(ctx, Transpose::yes, saved.features, store_->value(embedding_.handle()), false,
              logits);
  return logits;
}

template <class T>
void EncoderDecoder<T>::encode(const StepContext& source, Saved& saved,
                               const Matrix<double>& statistics,
                               const std::vector<Routing<T>>& replay) const {
  const Region region(KOKOMOE_LABEL("model::encode"));
  const Matrix<T> x =
      source.saved->template matrix<T>(static_cast<std::size_t>(source.tokens.tokens),
                                       static_cast<std::size_t>(config_.moe.d_model));
  embed(source, 0, x);
  const Matrix<T> y =
      encoder_.forward(source, x, saved.encoder, some_rows(statistics, 0, encoder_.moe_layers()),
                       replay.empty() ? nullptr : replay.data());
  saved.memory = finish(source, encoder_norm_, y, saved.encoder_norm);
}

template <class T>
Matrix<T> EncoderDecoder<T>::forward(const StepContext& source, const StepContext& target,
                                     Saved& saved, const Matrix<double>& statistics,
                                     const std::vector<Routing<T>>& replay) const {
  const Region region(KOKOMOE_LABEL("model::forward"));
  if (!replay.empty() && static_cast<int>(replay.size()) != moe_layers())
    fail("EncoderDecoder::forward", std::to_string(replay.size()) + " routings for " +
                                        std::to_string(moe_layers()) + " MoE layers");
  encode(source, saved, statistics, replay);
  const Matrix<T> x =
      target.saved->template matrix<T>(static_cast<std::size_t>(target.tokens.tokens),
                                       static_cast<std::size_t>(config_.moe.d_model));
  embed(target, config_.encoder_layers, x);
  const int before = encoder_.moe_layers();
  const Memory<T> memory{&source, saved.memory, {}};
  return project(target,
                 decoder_.forward(target, x, saved.decoder,
                                  some_rows(statistics, before, decoder_.moe_layers()),
                                  replay.empty() ? nullptr : replay.data() + before, memory),
                 saved);
}

template <class T>
void EncoderDecoder<T>::backward(const StepContext& source, const StepContext& target, Saved& saved,
                                 const Matrix<const T>& d_logits) const {
  const Region region(KOKOMOE_LABEL("model::backward"));
  Arena& scratch = *target.scratch;
  ArenaScope scope(scratch);
  const std::size_t tokens = saved.features.extent(0), d = saved.features.extent(1);
  const Matrix<T> d_memory = zeros<T>(source.space, scratch, saved.memory.extent(0), d);
  {
    ArenaScope decoder_scope(scratch);
    const Matrix<T> d_features = scratch.matrix<T>(tokens, d);
    {
      const Region head_region(KOKOMOE_LABEL("model::head_backward"));
      const ParameterHandle head = embedding_.handle();
      add_weight_gradient<T>(target, d_logits, saved.features, *store_, head);
      multiply<T>(target, Transpose::no, d_logits, store_->value(head), false, d_features);
    }
    Matrix<T> dx = d_features;
    if (decoder_norm_) {
      dx = zeros<T>(target.space, scratch, tokens, d);
      decoder_norm_->backward(target, saved.decoder_norm, d_features, dx);
    }
    decoder_.backward(target, saved.decoder, dx, {&source, saved.memory, d_memory});
    embed_backward(target, config_.encoder_layers, dx);
  }
  Matrix<T> dx = d_memory;
  if (encoder_norm_) {
    dx = zeros<T>(source.space, scratch, d_memory.extent(0), d);
    encoder_norm_->backward(source, saved.encoder_norm, d_memory, dx);
  }
  encoder_.backward(source, saved.encoder, dx);
  embed_backward(source, 0, dx);
}

template <class T>
typename EncoderDecoder<T>::Caches EncoderDecoder<T>::make_caches(const StepContext& source,
                                                                  const Saved& saved, int copies,
                                                                  int length) const {
  Caches caches;
  const int sources = source.tokens.sequences, sequences = sources * copies;
  caches.own = decoder_.make_caches(sequences, length);
  caches.begin = Vector<int>("kokomoe::model::memory_begin", static_cast<std::size_t>(sequences));
  caches.count = Vector<int>("kokomoe::model::memory_count", static_cast<std::size_t>(sequences));
  const Vector<int> begin = caches.begin, count = caches.count;
  const Vector<const int> offsets = source.tokens.sequence_offsets;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("model::memory_of_copies"),
      Kokkos::RangePolicy<ExecutionSpace>(source.space, 0, sequences), KOKKOS_LAMBDA(const int b) {
        begin(b) = offsets(b / copies);
        count(b) = offsets(b / copies + 1) - offsets(b / copies);
      });
  for (const Block<T>& block : decoder_.blocks()) {
    const Matrix<T> rows("kokomoe::model::memory_cache", saved.memory.extent(0),
                         2 * saved.memory.extent(1));
    block.cross()->keys_and_values(source, saved.memory, rows);
    caches.key_value.push_back(rows);
    caches.memory.push_back({rows, begin, count});
  }
  return caches;
}

template <class T>
Matrix<T> EncoderDecoder<T>::forward_cached(const StepContext& target, Saved& saved,
                                            const Caches& caches) const {
  const Matrix<T> x =
      target.saved->template matrix<T>(static_cast<std::size_t>(target.tokens.tokens),
                                       static_cast<std::size_t>(config_.moe.d_model));
  embed(target, config_.encoder_layers, x);
  return project(
      target, decoder_.forward_cached(target, x, saved.decoder, caches.own, caches.memory), saved);
}

template class EncoderDecoder<float>;
template class EncoderDecoder<double>;

}  // namespace kokomoe
