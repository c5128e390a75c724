// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/moe_layer.hpp"
#include "kokomoe/nn/attention.hpp"
#include "kokomoe/nn/norm.hpp"

#include <array>
#include <optional>
#include <string>

namespace kokomoe {

struct BlockConfig {
  AttentionConfig attention;
  NormKind norm = NormKind::rms;
  double dropout = 0;  ///< on both residual branches
  bool sparse = false; ///< feed-forward is an MoE layer, else dense
  MoeConfig moe;       ///< d_model, d_hidden, activation and bias also describe the dense one
  int layer = 0;       ///< index in the model
};

/// Pre-norm transformer block: x += attention(norm(x)); x += feed_forward(norm(x)).
/// Tensors NAME.attention_norm, NAME.attention, NAME.ffn_norm, and NAME.moe or NAME.ffn.
template <class T>
class Block {
 public:
  struct Saved {
    typename Norm<T>::Saved attention_norm, ffn_norm;
    typename Attention<T>::Saved attention;
    typename Experts<T>::Saved ffn;
    typename MoeLayer<T>::Saved moe;
    std::array<int, 2> rows{};  ///< row offsets of the one group of a dense feed-forward
  };

  Block(const BlockConfig& config, const Rotary<T>* rotary, ParameterStore<T>& store,
        const std::string& name);

  /// x (T, d) -> y (T, d); y may not be x. See MoeLayer::forward for statistics and replay.
  void forward(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y, Saved& saved,
               const Vector<double>& statistics, const Routing<T>* replay) const;

  /// Evaluation of new tokens only, with the keys and values of the old ones.
  void forward_cached(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y,
                      Saved& saved, const KeyValueCache<T>& cache) const;

  /// dx (T, d): on entry dL/dy, on return dL/dx.
  void backward(const StepContext& ctx, Saved& saved, const Matrix<T>& dx) const;

  /// Null in a dense block.
  const MoeLayer<T>* moe() const { return moe_ ? &*moe_ : nullptr; }
  MoeLayer<T>* moe() { return moe_ ? &*moe_ : nullptr; }

 private:
  void feed_forward(const StepContext& ctx, const Matrix<T>& y, Saved& saved,
                    const Vector<double>& statistics, const Routing<T>* replay) const;

  BlockConfig config_;
  Norm<T> attention_norm_;
  Attention<T> attention_;
  Norm<T> ffn_norm_;
  std::optional<MoeLayer<T>> moe_;
  std::optional<Experts<T>> ffn_;
};

}  // namespace kokomoe
