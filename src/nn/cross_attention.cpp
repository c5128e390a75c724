// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/nn/cross_attention.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"

namespace kokomoe {

namespace {

/// Of the draws of attention dropout; self-attention has 0.
constexpr int cross_lane = 1;

void require_pairs(const StepContext& ctx, const StepContext& source) {
  if (ctx.tokens.sequences != source.tokens.sequences)
    fail("CrossAttention", std::to_string(ctx.tokens.sequences) + " sequences and " +
                               std::to_string(source.tokens.sequences) + " of the memory");
}

}  // namespace

template <class T>
CrossAttention<T>::CrossAttention(const AttentionConfig& config, ParameterStore<T>& store,
                                  const std::string& name)
    : config_(config),
      query_(config.d_model, config.d_model, config.bias, store, name + ".query"),
      key_value_(config.d_model, 2 * config.d_model, config.bias, store, name + ".key_value"),
      out_(config.d_model, config.d_model, config.bias, store, name + ".out", config.output_scale) {
  if (config.heads < 1 || config.d_model % config.heads != 0)
    throw InputError(name + ": " + std::to_string(config.heads) + " heads do not divide " +
                     std::to_string(config.d_model) + " channels");
}

template <class T>
AttentionInput<T> CrossAttention<T>::input(const StepContext& ctx, const Matrix<const T>& query,
                                           const Matrix<const T>& key_value) const {
  AttentionInput<T> input;
  input.query = query;
  input.key = input.value = key_value;
  input.value_column = config_.d_model;
  input.query_offsets = ctx.tokens.sequence_offsets;
  input.position = ctx.tokens.position;
  input.sequences = ctx.tokens.sequences;
  input.max_queries = ctx.tokens.max_length;
  input.heads = config_.heads;
  input.width = config_.d_model / config_.heads;
  input.causal = false;
  input.dropout = config_.dropout;
  input.layer = config_.layer;
  input.lane = cross_lane;
  return input;
}

template <class T>
void CrossAttention<T>::forward(const StepContext& ctx, const StepContext& source,
                                const Matrix<const T>& x, const Matrix<const T>& memory,
                                const Matrix<T>& y, Saved& saved) const {
  const Region region(KOKOMOE_LABEL("nn::cross_attention"));
  require_pairs(ctx, source);
  const std::size_t tokens = x.extent(0), d = static_cast<std::size_t>(config_.d_model);
  saved.x = x;
  saved.memory = memory;
  saved.query = KeptRows<T>(*ctx.saved, tokens, d, ctx.round_kept);
  saved.key_value = KeptRows<T>(*ctx.saved, memory.extent(0), 2 * d, ctx.round_kept);
  saved.heads = ctx.saved->template matrix<T>(tokens, d);
  saved.log_sum = ctx.saved->template matrix<T>(tokens, static_cast<std::size_t>(config_.heads));
  ArenaScope scope(*ctx.scratch);
  const Matrix<T> query = saved.query.begin(*ctx.scratch),
                  key_value = saved.key_value.begin(*ctx.scratch);
  query_.forward(ctx, x, query);
  key_value_.forward(source, memory, key_value);
  saved.query.keep(ctx.space, query, ctx.training);
  saved.key_value.keep(ctx.space, key_value, ctx.training);
  AttentionInput<T> all = input(ctx, query, key_value);
  all.key_offsets = source.tokens.sequence_offsets;
  attention_forward<T>(ctx, all, saved.heads, saved.log_sum);
  out_.forward(ctx, saved.heads, y);
}

template <class T>
void CrossAttention<T>::backward(const StepContext& ctx, const StepContext& source,
                                 const Saved& saved, const Matrix<const T>& dy, const Matrix<T>& dx,
                                 const Matrix<T>& d_memory) const {
  const Region region(KOKOMOE_LABEL("nn::cross_attention_backward"));
  ArenaScope scope(*ctx.scratch);
  const auto rows = [&](std::size_t count, std::size_t columns) {
    return ctx.scratch->template matrix<T>(count, columns);
  };
  const Matrix<T> d_heads = rows(saved.heads.extent(0), saved.heads.extent(1)),
                  d_query = rows(saved.query.rows(), saved.query.columns()),
                  d_key_value = rows(saved.key_value.rows(), saved.key_value.columns());
  const auto read = [&](const KeptRows<T>& kept) { return kept.read(ctx.space, *ctx.scratch); };
  out_.backward(ctx, saved.heads, dy, d_heads);
  AttentionInput<T> all = input(ctx, read(saved.query), read(saved.key_value));
  all.key_offsets = source.tokens.sequence_offsets;
  attention_backward<T>(ctx, all, saved.heads, saved.log_sum, d_heads, d_query, d_key_value,
                        d_key_value);
  query_.backward(ctx, saved.x, d_query, dx);
  key_value_.backward(source, saved.memory, d_key_value, d_memory, true);
}

template <class T>
void CrossAttention<T>::keys_and_values(const StepContext& source, const Matrix<const T>& memory,
                                        const Matrix<T>& key_value) const {
  key_value_.forward(source, memory, key_value);
}

template <class T>
void CrossAttention<T>::forward_cached(const StepContext& ctx, const Matrix<const T>& x,
                                       const Matrix<const T>& key_value,
                                       const Vector<const int>& memory_begin,
                                       const Vector<const int>& memory_count,
                                       const Matrix<T>& y) const {
  ArenaScope scope(*ctx.scratch);
  const std::size_t tokens = x.extent(0), d = static_cast<std::size_t>(config_.d_model);
  const Matrix<T> query = ctx.scratch->template matrix<T>(tokens, d);
  const Matrix<T> heads = ctx.scratch->template matrix<T>(tokens, d);
  const Matrix<T> log_sum =
      ctx.scratch->template matrix<T>(tokens, static_cast<std::size_t>(config_.heads));
  query_.forward(ctx, x, query);
  AttentionInput<T> all = input(ctx, query, key_value);
  all.key_offsets = memory_begin;
  all.key_count = memory_count;
  attention_forward<T>(ctx, all, heads, log_sum);
  out_.forward(ctx, heads, y);
}

template class CrossAttention<float>;
template class CrossAttention<double>;

}  // namespace kokomoe
