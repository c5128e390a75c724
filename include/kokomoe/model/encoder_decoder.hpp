// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/model/block_stack.hpp"
#include "kokomoe/nn/embedding.hpp"
#include "kokomoe/nn/positions.hpp"

#include <optional>
#include <vector>

namespace kokomoe {

struct EncoderDecoderConfig {
  int vocabulary = 0;  ///< V, of both languages
  int encoder_layers = 1;
  int decoder_layers = 1;
  int heads = 1;
  int max_length = 0;  ///< longest sequence of either side
  NormKind norm = NormKind::layer;
  bool post_norm = true;
  bool bias = true;              ///< in the attention's projections
  double dropout = 0;            ///< embeddings and residual branches
  double attention_dropout = 0;  ///< attention probabilities
  int moe_every = 2;  ///< layers i with i % moe_every == 0 of both stacks are MoE; 0 = none
  MoeConfig moe;      ///< also d_model, d_hidden, activation and bias of dense layers
};

/// The Transformer of Vaswani et al. (2017): an encoder, a decoder that attends to it, one
/// embedding for both sides and the output projection, scaled by sqrt(d), sinusoidal positions.
/// Tensors embedding.weight (V, d), encoder.I.*, decoder.I.* and, with pre-norm, encoder_norm.* and
/// decoder_norm.*.
template <class T>
class EncoderDecoder {
 public:
  struct Saved {
    typename BlockStack<T>::Saved encoder, decoder;
    typename Norm<T>::Saved encoder_norm, decoder_norm;
    Matrix<T> memory;    ///< (S, d) what the decoder attends to
    Matrix<T> features;  ///< (T, d) what the output projection reads
  };

  /// Of sequences that are written token by token.
  struct Caches {
    std::vector<KeyValueCache<T>> own;   ///< of each decoder block
    std::vector<MemoryCache<T>> memory;  ///< likewise
    std::vector<Matrix<T>> key_value;    ///< (S, 2d) what `memory` points into
    Vector<int> begin, count;            ///< (sequences) rows of each one's source
  };

  /// Registers everything with `store`. Throws InputError when the sizes do not go together.
  EncoderDecoder(const EncoderDecoderConfig& config, ParameterStore<T>& store);

  /// `source` and `target` are one step's context with the tokens of either side, sequence b of the
  /// one belonging to sequence b of the other. Logits (T, V) of target.tokens, in target.saved.
  /// `statistics` (moe_layers, LoadStatistics::width(E)) or empty; `replay`: one recorded Routing
  /// for each MoE layer (one of no tokens: that layer draws), or empty; the encoder's come first.
  Matrix<T> forward(const StepContext& source, const StepContext& target, Saved& saved,
                    const Matrix<double>& statistics = {},
                    const std::vector<Routing<T>>& replay = {}) const;

  /// d_logits (T, V) -> parameter gradients.
  void backward(const StepContext& source, const StepContext& target, Saved& saved,
                const Matrix<const T>& d_logits) const;

  /// The encoder alone: saved.memory, in source.saved.
  void encode(const StepContext& source, Saved& saved, const Matrix<double>& statistics = {},
              const std::vector<Routing<T>>& replay = {}) const;

  /// Caches for `copies` sequences of up to `length` tokens for each of source's, after encode.
  /// Copies of one source lie side by side. Allocates.
  Caches make_caches(const StepContext& source, const Saved& saved, int copies, int length) const;

  /// Logits (T, V) of new tokens.
  Matrix<T> forward_cached(const StepContext& target, Saved& saved, const Caches& caches) const;

  int moe_layers() const { return encoder_.moe_layers() + decoder_.moe_layers(); }
  BlockStack<T>& encoder() { return encoder_; }
  BlockStack<T>& decoder() { return decoder_; }
  const BlockStack<T>& encoder() const { return encoder_; }
  const BlockStack<T>& decoder() const { return decoder_; }
  const EncoderDecoderConfig& config() const { return config_; }

 private:
  void embed(const StepContext& ctx, int layer, const Matrix<T>& x) const;
  void embed_backward(const StepContext& ctx, int layer, const Matrix<T>& dx) const;
  Matrix<T> project(const StepContext& ctx, const Matrix<T>& x, Saved& saved) const;
  /// The final norm of a stack, where there is one.
  Matrix<T> finish(const StepContext& ctx, const std::optional<Norm<T>>& norm, const Matrix<T>& x,
                   typename Norm<T>::Saved& saved) const;

  EncoderDecoderConfig config_;
  ParameterStore<T>* store_;
  Embedding<T> embedding_;
  SinusoidalPositions<T> positions_;
  BlockStack<T> encoder_, decoder_;
  std::optional<Norm<T>> encoder_norm_, decoder_norm_;
};

}  // namespace kokomoe
