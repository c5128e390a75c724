// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/nn/attention.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"

namespace kokomoe {

template <class T>
Attention<T>::Attention(const AttentionConfig& config, const Rotary<T>* rotary,
                        ParameterStore<T>& store, const std::string& name)
    : config_(config),
      rotary_(rotary),
      qkv_(config.d_model, 3 * config.d_model, config.bias, store, name + ".qkv"),
      out_(config.d_model, config.d_model, config.bias, store, name + ".out", config.output_scale) {
  if (config.heads < 1 || config.d_model % config.heads != 0)
    throw InputError(name + ": " + std::to_string(config.heads) + " heads do not divide " +
                     std::to_string(config.d_model) + " channels");
}

template <class T>
AttentionInput<T> Attention<T>::self_attention(const StepContext& ctx,
                                               const Matrix<const T>& qkv) const {
  AttentionInput<T> input;
  input.query = input.key = input.value = qkv;
  input.key_column = config_.d_model;
  input.value_column = 2 * config_.d_model;
  input.query_offsets = input.key_offsets = ctx.tokens.sequence_offsets;
  input.position = ctx.tokens.position;
  input.sequences = ctx.tokens.sequences;
  input.max_queries = ctx.tokens.max_length;
  input.heads = config_.heads;
  input.width = config_.d_model / config_.heads;
  input.dropout = config_.dropout;
  input.layer = config_.layer;
  input.causal = config_.causal;
  return input;
}

template <class T>
void Attention<T>::forward(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y,
                           Saved& saved) const {
  const Region region(KOKOMOE_LABEL("nn::attention"));
  const std::size_t tokens = x.extent(0), d = static_cast<std::size_t>(config_.d_model);
  saved.x = x;
  saved.qkv = KeptRows<T>(*ctx.saved, tokens, 3 * d, ctx.round_kept);
  saved.heads = ctx.saved->template matrix<T>(tokens, d);
  saved.log_sum = ctx.saved->template matrix<T>(tokens, static_cast<std::size_t>(config_.heads));
  ArenaScope scope(*ctx.scratch);
  const Matrix<T> qkv = saved.qkv.begin(*ctx.scratch);
  qkv_.forward(ctx, x, qkv);
  if (rotary_ != nullptr) rotary_->apply(ctx, qkv, 0, 2 * config_.heads, false);
  // Backward computes the probabilities again, and they must be the same.
  saved.qkv.keep(ctx.space, qkv, ctx.training);
  attention_forward<T>(ctx, self_attention(ctx, qkv), saved.heads, saved.log_sum);
  out_.forward(ctx, saved.heads, y);
}

template <class T>
void Attention<T>::forward_cached(const StepContext& ctx, const Matrix<const T>& x,
                                  const Matrix<T>& y, const KeyValueCache<T>& cache) const {
  const std::size_t tokens = x.extent(0), d = static_cast<std::size_t>(config_.d_model);
  const auto sequences = static_cast<std::size_t>(ctx.tokens.sequences);
  ArenaScope scope(*ctx.scratch);
  const Matrix<T> qkv = ctx.scratch->template matrix<T>(tokens, 3 * d);
  const Matrix<T> heads = ctx.scratch->template matrix<T>(tokens, d);
  const Matrix<T> log_sum =
      ctx.scratch->template matrix<T>(tokens, static_cast<std::size_t>(config_.heads));
  const Vector<int> begin = ctx.scratch->vector<int>(sequences);
  const Vector<int> count = ctx.scratch->vector<int>(sequences);
  qkv_.forward(ctx, x, qkv);
  if (rotary_ != nullptr) rotary_->apply(ctx, qkv, 0, 2 * config_.heads, false);

  const Vector<const int> offsets = ctx.tokens.sequence_offsets, position = ctx.tokens.position;
  const int length = cache.length, columns = 2 * config_.d_model, width = config_.d_model;
  const Matrix<T> rows = cache.rows;
  for_each_row(
      KOKOMOE_LABEL("nn::attention::append"), ctx.space, ctx.tokens.sequences,
      KOKKOS_LAMBDA(const Row& row) {
        const int b = row.index();
        for (int t = offsets(b); t < offsets(b + 1); ++t) {
          const T* const from = &qkv(t, width);
          T* const to = &rows(b * length + position(t), 0);
          row.each(columns, [&](const int j) { to[j] = from[j]; });
        }
        row.once([&]() {
          begin(b) = b * length;
          count(b) = offsets(b + 1) > offsets(b) ? position(offsets(b + 1) - 1) + 1 : 0;
        });
      });
  AttentionInput<T> input = self_attention(ctx, qkv);
  input.key = input.value = rows;
  input.key_column = 0;
  input.value_column = config_.d_model;
  input.key_offsets = begin;
  input.key_count = count;
  attention_forward<T>(ctx, input, heads, log_sum);
  out_.forward(ctx, heads, y);
}

template <class T>
void Attention<T>::backward(const StepContext& ctx, const Saved& saved, const Matrix<const T>& dy,
                            const Matrix<T>& dx) const {
  const Region region(KOKOMOE_LABEL("nn::attention_backward"));
  ArenaScope scope(*ctx.scratch);
  const Matrix<T> d_heads =
      ctx.scratch->template matrix<T>(saved.heads.extent(0), saved.heads.extent(1));
  const Matrix<T> d_qkv = ctx.scratch->template matrix<T>(saved.qkv.rows(), saved.qkv.columns());
  const Matrix<const T> qkv = saved.qkv.read(ctx.space, *ctx.scratch);
  out_.backward(ctx, saved.heads, dy, d_heads);
  attention_backward<T>(ctx, self_attention(ctx, qkv), saved.heads, saved.log_sum, d_heads, d_qkv,
                        d_qkv, d_qkv);
  if (rotary_ != nullptr) rotary_->apply(ctx, d_qkv, 0, 2 * config_.heads, true);
  qkv_.backward(ctx, saved.x, d_qkv, dx);
}

template class Attention<float>;
template class Attention<double>;

}  // namespace kokomoe
