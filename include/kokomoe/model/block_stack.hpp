// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/model/block.hpp"

#include <string>
#include <vector>

namespace kokomoe {

struct BlockStackConfig {
  int layers = 1;
  int heads = 1;
  NormKind norm = NormKind::rms;
  bool post_norm = false;
  bool causal = true;
  bool cross = false;
  bool bias = false;             ///< in the attention's projections
  double dropout = 0;            ///< residual branches
  double attention_dropout = 0;  ///< attention probabilities
  /// Layers i with i % moe_every == 0 are MoE; 0 = none.
  int moe_every = 1;
  MoeConfig moe;              ///< also d_model, d_hidden, activation and bias of dense layers
  int first_layer = 0;        ///< of these blocks, as it counts in the random numbers
  double residual_scale = 1;  ///< multiplies the deviation of what ends a branch
};

/// Transformer blocks, one after the other. Tensors NAME.I.*, see Block.
template <class T>
class BlockStack {
 public:
  using Saved = std::vector<typename Block<T>::Saved>;

  BlockStack(const BlockStackConfig& config, const Rotary<T>* rotary, ParameterStore<T>& store,
             const std::string& name);

  /// x (T, d) -> the last block's output (T, d), in ctx.saved. `statistics`: one row for each MoE
  /// layer or empty; `replay`: one recorded Routing for each (one of no tokens: that layer draws),
  /// or null.
  Matrix<T> forward(const StepContext& ctx, const Matrix<T>& x, Saved& saved,
                    const Matrix<double>& statistics, const Routing<T>* replay,
                    const Memory<T>& memory = {}) const;

  /// New tokens alone; `memory`: one for each block, or empty.
  Matrix<T> forward_cached(const StepContext& ctx, const Matrix<T>& x, Saved& saved,
                           const std::vector<KeyValueCache<T>>& caches,
                           const std::vector<MemoryCache<T>>& memory = {}) const;

  /// dx (T, d): on entry the gradient by the output, on return by the input.
  void backward(const StepContext& ctx, Saved& saved, const Matrix<T>& dx,
                const Memory<T>& memory = {}) const;

  /// Room for `sequences` times `length` tokens in each block.
  std::vector<KeyValueCache<T>> make_caches(int sequences, int length) const;

  int moe_layers() const;
  std::vector<Block<T>>& blocks() { return blocks_; }
  const std::vector<Block<T>>& blocks() const { return blocks_; }
  const BlockStackConfig& config() const { return config_; }

 private:
  BlockStackConfig config_;
  std::vector<Block<T>> blocks_;
};

}  // namespace kokomoe
