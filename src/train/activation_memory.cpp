// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "train/activation_memory.hpp"

#include <algorithm>
#include <cmath>

namespace kokomoe::detail {

namespace {

/// An exchange goes in parts when a message of each stays this large (docs/scaling.md).
constexpr double worth_its_own_message = 64 * 1024;

ExpertsConfig experts_of(const MoeConfig& moe, int experts, int d_hidden) {
  return {experts,
          moe.d_model,
          d_hidden,
          moe.activation,
          moe.bias,
          experts > 1,
          1,
          moe.kernels,
          experts > 1 && moe.round_weights};
}

int parts_of_exchange(const LanguageModelConfig& config, int expert_ranks, double row_bytes) {
  const int experts = config.model.moe.experts;
  const int most = (experts + expert_ranks - 1) / expert_ranks;
  const int asked = config.parallel.exchange_chunks;
  const bool worth_it = row_bytes / experts >= worth_its_own_message;
  return std::min(asked > 0 ? asked : worth_it ? most : 1, most);
}

}  // namespace

template <class T>
ActivationMemory<T>::ActivationMemory(const LanguageModelConfig& config, int moe_layers,
                                      int expert_ranks, std::int64_t micro_batch)
    : config_(config),
      moe_layers_(moe_layers),
      expert_ranks_(expert_ranks),
      d_(config.model.moe.d_model),
      vocabulary_(config.model.vocabulary) {
  MoeConfig& moe = config_.model.moe;
  moe.vocabulary = config.model.vocabulary;
  const RowArithmetic how{config.layout_free, {}, config.round_kept};
  if (moe_layers < config.model.layers)
    dense_ = measure_experts<T>(experts_of(moe, 1, moe.d_hidden), how);
  if (moe_layers == 0) return;
  routing_ = measure_routing<T>(moe, config.sequence_length);
  chunks_ =
      parts_of_exchange(config, expert_ranks, matrix(rows(static_cast<double>(micro_batch)), d_));
  if (expert_ranks == 1) {
    layer_ = measure_layer<T>(moe, how);
    return;
  }
  const int own = (moe.experts + expert_ranks - 1) / expert_ranks;
  experts_ = measure_experts<T>(experts_of(moe, own, moe.d_hidden), how);
  if (moe.shared_experts > 0)
    shared_ = measure_experts<T>(experts_of(moe, 1, moe.d_hidden * moe.shared_experts), how);
}

template <class T>
double ActivationMemory<T>::saved(std::int64_t tokens_of_rank) const {
  const auto tokens = static_cast<double>(tokens_of_rank);
  if (tokens == 0) return 0;
  const int dense_layers = config_.model.layers - moe_layers_;
  // The embedded tokens, the final norm's result and statistics, the logits.
  return matrix(tokens, 2 * d_ + 2 + vocabulary_) + config_.model.layers * block_saved(tokens) +
         dense_layers * dense_.saved.at(tokens) + moe_layers_ * moe_saved(tokens) +
         (moe_layers_ > 0 ? moe_recomputed(tokens) : 0);
}

/// Everything of a block but its feed-forward: two normed inputs, where they are kept, with their
/// statistics, queries, keys and values, heads and their sums, what lies between the branches, the
/// output.
template <class T>
double ActivationMemory<T>::block_saved(double tokens) const {
  return matrix(tokens, (rounded() ? 3 : 5) * d_ + 4 + config_.model.heads) + kept(tokens, 3 * d_);
}

template <class T>
double ActivationMemory<T>::moe_saved(double tokens) const {
  const MoeConfig& moe = config_.model.moe;
  const double n = rows(tokens), slots = routing_.slots * tokens;
  double bytes = routing_.saved * tokens;
  bytes += (3 * sizeof(int) + 2 * sizeof(double)) * moe.experts;  // counts
  if (moe.capacity_factor > 0) bytes += (1 + sizeof(int)) * slots;
  if (moe.balance != 0 && moe.balance_scope == BalanceScope::sequence)
    bytes += sizeof(int) * (tokens + tokens / config_.sequence_length * moe.experts);
  if (!moe.recompute) bytes += sum_kept(tokens);
  if (sharded())
    return bytes + 4 * sizeof(int) * slots + (moe.recompute ? 0 : sharded_experts_saved(tokens));
  // The dispatch plan has as much for a slot that is not used as for a row.
  return bytes + layer_.saved.at(tokens, n) + 4 * sizeof(int) * (slots - n);
}

/// What one layer at a time has in backward.
template <class T>
double ActivationMemory<T>::moe_recomputed(double tokens) const {
  if (!config_.model.moe.recompute) return 0;
  return sum_kept(tokens) +
         (sharded() ? sharded_experts_saved(tokens) : layer_.recomputed.at(tokens, rows(tokens)));
}

/// What the gain multiplied, where it is this router that wants it kept.
template <class T>
double ActivationMemory<T>::sum_kept(double tokens) const {
  const MoeConfig& moe = config_.model.moe;
  const bool kept = moe.output_gain && !routing_.gives_gain_gradient &&
                    sums_factor(moe.kernels, config_.layout_free);
  return kept ? matrix(tokens, d_) : 0;
}

/// Rows as they arrived, the experts' hidden layer.
template <class T>
double ActivationMemory<T>::sharded_experts_saved(double tokens) const {
  const MoeConfig& moe = config_.model.moe;
  const double n = rows(tokens);
  double bytes = matrix(n, d_) + experts_.saved.at(n);
  bytes += sizeof(int) * n;                               // whose expert a row is for
  if (config_.layout_free) bytes += 3 * sizeof(int) * n;  // sequences, segments
  if (moe.output_gain && !sums_factor(moe.kernels, config_.layout_free))
    bytes += matrix(tokens, d_);
  if (moe.shared_experts > 0) bytes += shared_.saved.at(tokens);
  return bytes;
}

template <class T>
double ActivationMemory<T>::scratch(std::int64_t tokens_of_rank) const {
  const auto tokens = static_cast<double>(tokens_of_rank);
  const double token_rows = matrix(tokens, d_);
  double block = attention_scratch(tokens);
  if (moe_layers_ < config_.model.layers) block = std::max(block, dense_.backward.at(tokens));
  if (moe_layers_ > 0) block = std::max(block, moe_backward(tokens));
  // Gradients of a branch's input and, with dropout, output, beside those that go from block to
  // block.
  const double branch = (config_.model.dropout > 0 ? 2 : 1) * token_rows + in_use(tokens, d_);
  const double backward =
      2 * token_rows +
      std::max({branch + block, token_rows, head_scratch(tokens), embedding_scratch(tokens)});
  return std::max(backward, forward_scratch(tokens_of_rank));
}

/// A branch's output, its input where it is not kept, and what the branch itself takes.
template <class T>
double ActivationMemory<T>::forward_scratch(std::int64_t tokens_of_rank) const {
  const auto tokens = static_cast<double>(tokens_of_rank);
  double branch = in_use(tokens, 3 * d_);
  if (moe_layers_ < config_.model.layers) branch = std::max(branch, dense_.forward.at(tokens));
  if (moe_layers_ > 0) branch = std::max(branch, moe_forward(tokens));
  return matrix(tokens, d_) + in_use(tokens, d_) + branch;
}

/// Of sharded layers: rows as sent, arrived, unsorted and computed.
template <class T>
double ActivationMemory<T>::moe_forward(double tokens) const {
  const double n = rows(tokens);
  if (!sharded()) return layer_.forward.at(tokens, n);
  const double shared = config_.model.moe.shared_experts > 0 ? matrix(tokens, d_) : 0;
  return 4 * matrix(n, d_) + shared + experts_.forward.at(n / chunks_);
}

template <class T>
double ActivationMemory<T>::moe_backward(double tokens) const {
  const MoeConfig& moe = config_.model.moe;
  const double n = rows(tokens), token_rows = matrix(tokens, d_);
  const double of_rows = matrix(n, d_ + 2) + (moe.shared_experts > 0 ? token_rows : 0);
  const double router =
      of_rows + matrix(tokens, routing_.slots + 2.0 * moe.experts) + routing_.scratch * tokens;
  if (!sharded()) return std::max(router, layer_.backward.at(tokens, padded(n)) + gain_scratch());
  // Gradients as sent, arrived, unsorted where a part has several experts, and computed.
  const bool sorted = chunks_ * expert_ranks_ >= moe.experts;
  const double travel = matrix(n, d_) + (sorted ? 2 : 3) * matrix(n, d_ + 1);
  const double shared = moe.shared_experts > 0 ? shared_.backward.at(tokens) : 0;
  return std::max(router,
                  of_rows + travel +
                      std::max(shared, experts_.backward.at(padded(n) / chunks_) + gain_scratch()));
}

/// Rows with what fills up each expert's last vector, where blocks of rows run: with many experts
/// of few rows there is more of that than of rows.
template <class T>
double ActivationMemory<T>::padded(double rows) const {
  const MoeConfig& moe = config_.model.moe;
  if (!sums_factor(moe.kernels, config_.layout_free)) return rows;
  constexpr double lanes = 64.0 / sizeof(T);
  const double own = std::ceil(static_cast<double>(moe.experts) / expert_ranks_);
  return std::min(lanes * rows, rows + 0.5 * (lanes - 1) * own);
}

/// Parts of the output gain's gradient, from each expert and chunk of channels; the few of the
/// layer that was measured are among its scratch.
template <class T>
double ActivationMemory<T>::gain_scratch() const {
  const MoeConfig& moe = config_.model.moe;
  if (!moe.output_gain || !routing_.gives_gain_gradient ||
      !sums_factor(moe.kernels, config_.layout_free))
    return 0;
  const double own = std::ceil(static_cast<double>(moe.experts) / expert_ranks_);
  return sizeof(T) *
         factor_gradient_parts(static_cast<int>(own / chunks_), moe.d_model, moe.d_hidden);
}

/// Queries, keys and values where they were rounded; their gradients and those of heads.
template <class T>
double ActivationMemory<T>::attention_scratch(double tokens) const {
  const double gradients = matrix(tokens, 4 * d_) + in_use(tokens, 3 * d_);
  if (!config_.layout_free) return gradients;
  return gradients + std::max(matrix(3 * d_, d_), matrix(tokens, 4 * d_));  // packed operands
}

/// Tokens sorted by id.
template <class T>
double ActivationMemory<T>::embedding_scratch(double tokens) const {
  constexpr double block = 256;
  return sizeof(int) * (vocabulary_ * (std::ceil(tokens / block) + 1) + tokens);
}

template <class T>
double ActivationMemory<T>::head_scratch(double tokens) const {
  if (!config_.layout_free) return 0;
  return std::max(matrix(vocabulary_, d_), matrix(tokens, vocabulary_ + d_));  // packed operands
}

template class ActivationMemory<float>;
template class ActivationMemory<double>;

}  // namespace kokomoe::detail
