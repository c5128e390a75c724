// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/model/residual.hpp"
#include "kokomoe/moe/moe_layer.hpp"
#include "kokomoe/nn/cross_attention.hpp"

#include <array>
#include <optional>
#include <string>

namespace kokomoe {

struct BlockConfig {
  AttentionConfig attention;
  NormKind norm = NormKind::rms;
  bool post_norm = false;  ///< see ResidualConfig
  bool cross = false;      ///< attends to a memory between self-attention and feed-forward
  double dropout = 0;      ///< on the residual branches
  bool sparse = false;     ///< feed-forward is an MoE layer, else dense
  MoeConfig moe;           ///< d_model, d_hidden, activation and bias also describe the dense one
  int layer = 0;           ///< index in the model
};

/// What the tokens of a block with cross-attention attend to.
template <class T>
struct Memory {
  const StepContext* source = nullptr;  ///< the step's context with the memory's tokens
  Matrix<const T> rows;                 ///< (S, d)
  Matrix<T> gradient;                   ///< (S, d) backward ADDS to it
};

/// The same when tokens come one by one: keys and values of the memory, for each block.
template <class T>
struct MemoryCache {
  Matrix<const T> key_value;       ///< (S, 2 d)
  Vector<const int> begin, count;  ///< (sequences) rows of each
};

/// Transformer block: self-attention, attention to a memory if config.cross, feed-forward, each a
/// Residual. Tensors NAME.attention_norm, NAME.attention, NAME.cross_norm, NAME.cross,
/// NAME.ffn_norm, and NAME.moe or NAME.ffn.
template <class T>
class Block {
 public:
  struct Saved {
    typename Residual<T>::Saved attention_norm, cross_norm, ffn_norm;
    typename Attention<T>::Saved attention;
    typename CrossAttention<T>::Saved cross;
    typename Experts<T>::Saved ffn;
    typename MoeLayer<T>::Saved moe;
    std::array<int, 2> rows{};  ///< row offsets of the one group of a dense feed-forward
  };

  Block(const BlockConfig& config, const Rotary<T>* rotary, ParameterStore<T>& store,
        const std::string& name);

  /// x (T, d) -> y (T, d); y may not be x. See MoeLayer::forward for statistics and replay.
  /// `memory`: needed with config.cross.
  void forward(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y, Saved& saved,
               const Vector<double>& statistics, const Routing<T>* replay,
               const Memory<T>& memory = {}) const;

  /// Evaluation of new tokens only, with the keys and values of the old ones.
  void forward_cached(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y,
                      Saved& saved, const KeyValueCache<T>& cache,
                      const MemoryCache<T>& memory = {}) const;

  /// dx (T, d): on entry dL/dy, on return dL/dx.
  void backward(const StepContext& ctx, Saved& saved, const Matrix<T>& dx,
                const Memory<T>& memory = {}) const;

  /// Null in a dense block.
  const MoeLayer<T>* moe() const { return moe_ ? &*moe_ : nullptr; }
  MoeLayer<T>* moe() { return moe_ ? &*moe_ : nullptr; }
  /// Null without cross-attention.
  const CrossAttention<T>* cross() const { return cross_ ? &*cross_ : nullptr; }

 private:
  void feed_forward(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y,
                    Saved& saved, const Vector<double>& statistics, const Routing<T>* replay) const;
  void forget_inputs(const StepContext& ctx, Saved& saved) const;

  Residual<T> attention_norm_;
  Attention<T> attention_;
  std::optional<Residual<T>> cross_norm_;
  std::optional<CrossAttention<T>> cross_;
  Residual<T> ffn_norm_;
  std::optional<MoeLayer<T>> moe_;
  std::optional<Experts<T>> ffn_;
};

}  // namespace kokomoe
