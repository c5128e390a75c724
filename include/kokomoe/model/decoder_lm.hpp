// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/model/block_stack.hpp"
#include "kokomoe/nn/embedding.hpp"

#include <memory>
#include <string>
#include <vector>

namespace kokomoe {

struct DecoderConfig {
  int vocabulary = 0;  ///< V
  int layers = 1;
  int heads = 1;
  int max_length = 0;  ///< longest sequence, generation included
  NormKind norm = NormKind::rms;
  Positions positions = Positions::rotary;
  bool bias = false;             ///< in the attention's projections
  bool tied = true;              ///< the embedding is the output projection too
  double dropout = 0;            ///< embedding and residual branches
  double attention_dropout = 0;  ///< attention probabilities
  int moe_every = 1;             ///< layers i with i % moe_every == 0 are MoE; 0 = none
  MoeConfig moe;                 ///< also d_model, d_hidden, activation and bias of dense layers
};

/// Causal language model: embedding, pre-norm blocks, final norm, output projection.
/// Tensors embedding.weight (V, d), positions.weight (max_length, d) if learned, blocks.I.*,
/// final_norm.*, head.weight (V, d) if not tied.
template <class T>
class DecoderLm {
 public:
  struct Saved {
    typename BlockStack<T>::Saved blocks;
    typename Norm<T>::Saved final_norm;
    Matrix<T> features;  ///< (T, d) what the output projection reads
  };

  /// Registers everything with `store`. Throws InputError when the sizes do not go together.
  DecoderLm(const DecoderConfig& config, ParameterStore<T>& store);

  /// ctx.tokens -> logits (T, V), in ctx.saved. `statistics` (moe_layers, LoadStatistics::width(E))
  /// or empty; `replay`: one recorded Routing for each MoE layer (one
  /// of no tokens: that layer draws), or empty.
  Matrix<T> forward(const StepContext& ctx, Saved& saved, const Matrix<double>& statistics = {},
                    const std::vector<Routing<T>>& replay = {}) const;

  /// d_logits (T, V) -> parameter gradients.
  void backward(const StepContext& ctx, Saved& saved, const Matrix<const T>& d_logits) const;

  /// Logits (T, V) of new tokens, given one cache for each block that holds the old ones.
  Matrix<T> forward_cached(const StepContext& ctx, Saved& saved,
                           const std::vector<KeyValueCache<T>>& caches) const;
  std::vector<KeyValueCache<T>> make_caches(int sequences, int length) const {
    return stack_->make_caches(sequences, length);
  }

  int moe_layers() const { return stack_->moe_layers(); }
  BlockStack<T>& stack() { return *stack_; }
  const BlockStack<T>& stack() const { return *stack_; }
  std::vector<Block<T>>& blocks() { return stack_->blocks(); }
  const std::vector<Block<T>>& blocks() const { return stack_->blocks(); }
  const DecoderConfig& config() const { return config_; }

 private:
  void embed(const StepContext& ctx, const Matrix<T>& x) const;
  Matrix<T> project(const StepContext& ctx, const Matrix<const T>& x, Saved& saved) const;
  ParameterHandle head() const { return config_.tied ? embedding_.handle() : head_; }

  DecoderConfig config_;
  ParameterStore<T>* store_;
  std::unique_ptr<Rotary<T>> rotary_;
  Embedding<T> embedding_;
  std::optional<Embedding<T>> positions_;
  std::optional<BlockStack<T>> stack_;
  Norm<T> final_norm_;
  ParameterHandle head_;
};

}  // namespace kokomoe
