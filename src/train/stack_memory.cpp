// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "train/stack_memory.hpp"

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

int parts_of_exchange(int experts, int asked, int expert_ranks, double row_bytes) {
  const int most = (experts + expert_ranks - 1) / expert_ranks;
  const bool worth_it = row_bytes / experts >= worth_its_own_message;
  return std::min(asked > 0 ? asked : worth_it ? most : 1, most);
}

}  // namespace

template <class T>
StackMemory<T>::StackMemory(const BlockStack<T>& stack, const TrainConfig& train,
                            int sequence_length, int expert_ranks, double micro_batch)
    : blocks_(stack.config()),
      layout_free_(train.layout_free),
      round_kept_(train.round_kept),
      sequence_length_(sequence_length),
      moe_layers_(stack.moe_layers()),
      expert_ranks_(expert_ranks),
      d_(blocks_.moe.d_model) {
  const MoeConfig& moe = blocks_.moe;
  const RowArithmetic how{layout_free_, {}, round_kept_};
  if (moe_layers_ < blocks_.layers)
    dense_ = measure_experts<T>(experts_of(moe, 1, moe.d_hidden), how);
  if (moe_layers_ == 0) return;
  routing_ = measure_routing<T>(moe, sequence_length);
  chunks_ = parts_of_exchange(moe.experts, train.parallel.exchange_chunks, expert_ranks,
                              matrix(rows(micro_batch), d_));
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
double StackMemory<T>::saved(double tokens, double memory) const {
  if (tokens == 0) return 0;
  return blocks_.layers * block_saved(tokens, memory) +
         (blocks_.layers - moe_layers_) * dense_.saved.at(tokens) + moe_layers_ * moe_saved(tokens);
}

/// Everything of a block but its feed-forward. Of each branch: its normed input or, with norms
/// after the sums, the sum, with their statistics, and the branch's output in the residual stream.
/// Queries, keys and values, heads and their sums.
template <class T>
double StackMemory<T>::block_saved(double tokens, double memory) const {
  const double branches = blocks_.cross ? 3 : 2;
  const double branch = matrix(tokens, (again() ? 1 : 2) * d_ + 2);
  const double heads = matrix(tokens, d_ + blocks_.heads);
  double bytes = branches * branch + heads + kept(tokens, 3 * d_);
  if (blocks_.cross) bytes += heads + kept(tokens, d_) + kept(memory, 2 * d_);
  return bytes;
}

template <class T>
double StackMemory<T>::moe_saved(double tokens) const {
  const MoeConfig& moe = blocks_.moe;
  const double n = rows(tokens), slots = routing_.slots * tokens;
  double bytes = routing_.saved * tokens;
  bytes += (3 * sizeof(int) + 2 * sizeof(double)) * moe.experts;  // counts
  if (moe.capacity_factor > 0) bytes += (1 + sizeof(int)) * slots;
  if (moe.balance != 0 && moe.balance_scope == BalanceScope::sequence)
    bytes += sizeof(int) * (tokens + tokens / sequence_length_ * moe.experts);
  if (!moe.recompute) bytes += sum_kept(tokens);
  if (sharded())
    return bytes + 4 * sizeof(int) * slots + (moe.recompute ? 0 : sharded_experts_saved(tokens));
  // The dispatch plan has as much for a slot that is not used as for a row.
  return bytes + layer_.saved.at(tokens, n) + 4 * sizeof(int) * (slots - n);
}

template <class T>
double StackMemory<T>::recomputed(double tokens) const {
  if (!blocks_.moe.recompute || moe_layers_ == 0) return 0;
  return sum_kept(tokens) +
         (sharded() ? sharded_experts_saved(tokens) : layer_.recomputed.at(tokens, rows(tokens)));
}

/// What the gain multiplied, where it is this router that wants it kept.
template <class T>
double StackMemory<T>::sum_kept(double tokens) const {
  const MoeConfig& moe = blocks_.moe;
  const bool kept =
      moe.output_gain && !routing_.gives_gain_gradient && sums_factor(moe.kernels, layout_free_);
  return kept ? matrix(tokens, d_) : 0;
}

/// Rows as they arrived, the experts' hidden layer.
template <class T>
double StackMemory<T>::sharded_experts_saved(double tokens) const {
  const MoeConfig& moe = blocks_.moe;
  const double n = rows(tokens);
  double bytes = matrix(n, d_) + experts_.saved.at(n);
  bytes += sizeof(int) * n;                        // whose expert a row is for
  if (layout_free_) bytes += 3 * sizeof(int) * n;  // sequences, segments
  if (moe.output_gain && !sums_factor(moe.kernels, layout_free_)) bytes += matrix(tokens, d_);
  if (moe.shared_experts > 0) bytes += shared_.saved.at(tokens);
  return bytes;
}

/// A branch's output, its input where it is not kept, and what the branch itself takes.
template <class T>
double StackMemory<T>::forward(double tokens, double memory) const {
  double branch = in_use(tokens, 3 * d_);
  if (blocks_.cross) branch = std::max(branch, in_use(tokens, d_) + in_use(memory, 2 * d_));
  if (moe_layers_ < blocks_.layers) branch = std::max(branch, dense_.forward.at(tokens));
  if (moe_layers_ > 0) branch = std::max(branch, moe_forward(tokens));
  return matrix(tokens, d_) + (again() ? matrix(tokens, d_) : 0) + branch;
}

/// Gradients of a branch's input, of its output with dropout and of its sum with a norm after it;
/// its input where it is computed again; and what the branch itself takes.
template <class T>
double StackMemory<T>::backward(double tokens, double memory) const {
  double branch = attention_backward(tokens);
  if (blocks_.cross) branch = std::max(branch, cross_backward(tokens, memory));
  if (moe_layers_ < blocks_.layers) branch = std::max(branch, dense_.backward.at(tokens));
  if (moe_layers_ > 0) branch = std::max(branch, moe_backward(tokens));
  const double gradients = 1 + (blocks_.dropout > 0 ? 1 : 0) + (blocks_.post_norm ? 1 : 0);
  return (gradients + (again() ? 1 : 0)) * matrix(tokens, d_) + branch;
}

/// Of sharded layers: rows as sent, arrived, unsorted and computed.
template <class T>
double StackMemory<T>::moe_forward(double tokens) const {
  const double n = rows(tokens);
  if (!sharded()) return layer_.forward.at(tokens, n);
  const double shared = blocks_.moe.shared_experts > 0 ? matrix(tokens, d_) : 0;
  return 4 * matrix(n, d_) + shared + experts_.forward.at(n / chunks_);
}

template <class T>
double StackMemory<T>::moe_backward(double tokens) const {
  const MoeConfig& moe = blocks_.moe;
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
double StackMemory<T>::padded(double rows) const {
  const MoeConfig& moe = blocks_.moe;
  if (!sums_factor(moe.kernels, layout_free_)) return rows;
  constexpr double lanes = 64.0 / sizeof(T);
  const double own = std::ceil(static_cast<double>(moe.experts) / expert_ranks_);
  return std::min(lanes * rows, rows + 0.5 * (lanes - 1) * own);
}

/// Parts of the output gain's gradient, from each expert and chunk of channels; the few of the
/// layer that was measured are among its scratch.
template <class T>
double StackMemory<T>::gain_scratch() const {
  const MoeConfig& moe = blocks_.moe;
  if (!moe.output_gain || !routing_.gives_gain_gradient || !sums_factor(moe.kernels, layout_free_))
    return 0;
  const double own = std::ceil(static_cast<double>(moe.experts) / expert_ranks_);
  return sizeof(T) *
         factor_gradient_parts(static_cast<int>(own / chunks_), moe.d_model, moe.d_hidden);
}

/// Queries, keys and values where they were rounded; their gradients and those of heads.
template <class T>
double StackMemory<T>::attention_backward(double tokens) const {
  const double gradients = matrix(tokens, 4 * d_) + in_use(tokens, 3 * d_);
  if (!layout_free_) return gradients;
  return gradients + std::max(matrix(3 * d_, d_), matrix(tokens, 4 * d_));  // packed operands
}

template <class T>
double StackMemory<T>::cross_backward(double tokens, double memory) const {
  return matrix(tokens, 2 * d_) + matrix(memory, 2 * d_) + in_use(tokens, d_) +
         in_use(memory, 2 * d_);
}

template class StackMemory<float>;
template class StackMemory<double>;

}  // namespace kokomoe::detail
