// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/model/block_stack.hpp"
#include "kokomoe/nn/embedding.hpp"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace kokomoe {

struct EncoderConfig {
  int vocabulary = 0;  ///< V, with the special ids
  int max_length = 0;  ///< longest sequence
  int segments = 0;    ///< kinds of segment a token may belong to; 0 = none is told
  Positions positions = Positions::learned;
  int embedding = 0;  ///< width of the embedding; 0 = moe.d_model. Others are projected to d_model
  int layers = 1;
  int heads = 1;
  NormKind norm = NormKind::layer;
  bool post_norm = true;
  bool bias = true;              ///< in the attention's projections
  double dropout = 0;            ///< embedding and residual branches
  double attention_dropout = 0;  ///< attention probabilities
  int moe_every = 2;             ///< layers i with i % moe_every == 0 are MoE; 0 = none
  int first_layer = 0;           ///< of the blocks, as it counts in the random numbers
  MoeConfig moe;                 ///< also d_model, d_hidden, activation and bias of dense layers

  int embedding_width() const { return embedding > 0 ? embedding : moe.d_model; }
};

/// Tokens, positions and segments as vectors: the norm of the sum of three rows. Tensors
/// NAME.weight (V, e), NAME.positions.weight (max_length, e) unless rotary, NAME.segments.weight
/// (segments, e) if there are any, and NAME.norm.*. Several encoders may share one.
template <class T>
class TextEmbedding {
 public:
  struct Saved {
    Vector<const int> segments;
    typename Norm<T>::Saved norm;
  };

  /// Sizes, norm and width as `config` says.
  TextEmbedding(const EncoderConfig& config, ParameterStore<T>& store, const std::string& name);

  /// ctx.tokens and `segments` (T) in [0, segments), or empty where there are none -> y (T, e).
  /// Throws Error for a sequence that is too long and for segments that are not told or not known.
  void forward(const StepContext& ctx, const Vector<const int>& segments, const Matrix<T>& y,
               Saved& saved) const;
  /// dy (T, e) -> gradients of the tables and the norm.
  void backward(const StepContext& ctx, const Saved& saved, const Matrix<const T>& dy) const;

  /// The tokens' table, (V, e).
  ParameterHandle handle() const { return tokens_.handle(); }
  int width() const { return width_; }

 private:
  int width_, max_length_, segment_count_;
  ParameterStore<T>* store_;
  Embedding<T> tokens_;
  std::optional<Embedding<T>> positions_, segments_;
  Norm<T> norm_;
};

/// Bidirectional transformer: embedding, dropout, a projection where the embedding has another
/// width, blocks. Tensors EMBEDDING.* (see TextEmbedding), NAME.projection.* if projected, NAME.I.*
/// (see Block) and, with pre-norm, NAME.final_norm.*.
template <class T>
class Encoder {
 public:
  struct Saved {
    typename TextEmbedding<T>::Saved embedding;
    Matrix<T> embedded;  ///< (T, e) after dropout
    typename BlockStack<T>::Saved blocks;
    typename Norm<T>::Saved final_norm;
    Matrix<T> features;  ///< (T, d)
  };

  /// Registers everything with `store`, the embedding too unless `shared` is another encoder's.
  /// Throws InputError when the sizes do not go together.
  Encoder(const EncoderConfig& config, ParameterStore<T>& store, const std::string& name,
          std::shared_ptr<const TextEmbedding<T>> shared = nullptr,
          const std::string& embedding_name = "embedding");

  /// ctx.tokens -> saved.features (T, d), in ctx.saved. `segments`: see TextEmbedding. `statistics`
  /// (moe_layers, LoadStatistics::width(E)) or empty; `replay`: one recorded Routing for each MoE
  /// layer (one of no tokens: that layer draws), or empty.
  Matrix<T> forward(const StepContext& ctx, const Vector<const int>& segments, Saved& saved,
                    const Matrix<double>& statistics = {},
                    const std::vector<Routing<T>>& replay = {}) const;

  /// d_features (T, d) -> parameter gradients; what it holds is lost.
  void backward(const StepContext& ctx, Saved& saved, const Matrix<T>& d_features) const;

  int moe_layers() const { return stack_.moe_layers(); }
  std::vector<Block<T>>& blocks() { return stack_.blocks(); }
  BlockStack<T>& stack() { return stack_; }
  const BlockStack<T>& stack() const { return stack_; }
  const std::vector<Block<T>>& blocks() const { return stack_.blocks(); }
  const std::shared_ptr<const TextEmbedding<T>>& embedding() const { return embedding_; }
  const EncoderConfig& config() const { return config_; }

 private:
  EncoderConfig config_;
  std::shared_ptr<const TextEmbedding<T>> embedding_;
  std::unique_ptr<Rotary<T>> rotary_;  ///< at a fixed address: blocks refer to it
  std::optional<Linear<T>> projection_;
  BlockStack<T> stack_;
  std::optional<Norm<T>> final_norm_;
};

}  // namespace kokomoe
