// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/model/encoder.hpp"
#include "kokomoe/model/token_selection.hpp"
#include "kokomoe/nn/gelu_linear.hpp"

#include <vector>

namespace kokomoe {

struct ElectraConfig {
  EncoderConfig discriminator;  ///< its embedding is the generator's too, and as wide as it is
  /// The generator's d_model, d_hidden and heads as a share of the discriminator's, rounded.
  double generator_width = 1.0 / 3;
  int generator_layers = 0;          ///< 0 = as many as the discriminator has
  double discriminator_weight = 50;  ///< of its loss beside the generator's
  double temperature = 1;            ///< of the generator where it is drawn from
};

/// Sums over the tokens of this rank, on the device:
///   [ generator loss, nats | masked tokens that it gives the largest logit
///   | discriminator loss, nats | tokens told right | replaced tokens | those of them found ]
struct ElectraSums {
  static constexpr int width = 6;
};

/// What a step of ElectraModel is told beside its context, whose tokens.ids are the text. On the
/// device.
struct ElectraInput {
  Vector<const int> masked_ids;         ///< (T) the text with some tokens hidden
  Vector<const int> rows;               ///< (M) where they are, ascending
  Vector<const int> segments;           ///< (T), or empty where the model has none
  Vector<const int> replacements = {};  ///< (M) what to put there; empty: drawn from the generator
};

/// Replaced-token detection (Clark et al. 2020, arXiv 2003.10555). A generator, a dense encoder
/// that is narrower, guesses hidden tokens; what is drawn from its guesses takes their places; the
/// discriminator, an encoder with experts, tells for each token whether it is another one than in
/// the text. Both losses are minimised together: no gradient goes through the draw.
///
/// Tensors embedding.* (see TextEmbedding), generator.encoder.*, generator.dense.* (d of the
/// generator to the embedding's width), generator.norm.*, generator.bias (V),
/// discriminator.encoder.*, discriminator.dense.* (d to d) and discriminator.out.* (d to 1). The
/// tokens' table is the generator's output projection too.
template <class T>
class ElectraModel {
 public:
  struct Saved {
    typename Encoder<T>::Saved generator, discriminator;
    typename GeluLinear<T>::Saved generator_dense, discriminator_dense;
    typename Norm<T>::Saved generator_norm;
    TokenSelection masked;           ///< the hidden tokens, their ids being what is hidden
    Vector<const int> masked_ids;    ///< (T) what the generator reads
    Vector<const int> replacements;  ///< (M)
    Vector<int> corrupted;           ///< (T) what the discriminator reads
    Vector<int> replaced;            ///< (T) 1 where it is not the text's
    Matrix<T> guesses;               ///< (M, e) what the output projection reads
    Matrix<T> verdicts;              ///< (T, d) what the discriminator's last layer reads
    Matrix<T> generator_logits;      ///< (M, V); after losses(gradient) their gradient
    Matrix<T> discriminator_logits;  ///< (T, 1), positive = replaced; likewise
  };

  /// Registers everything with `store`. Throws InputError when the sizes do not go together.
  ElectraModel(const ElectraConfig& config, ParameterStore<T>& store);

  /// Both models' logits, in `saved` and ctx.saved. `statistics` (moe_layers,
  /// LoadStatistics::width(E)) or empty; `replay`: see Encoder.
  void forward(const StepContext& ctx, const ElectraInput& input, Saved& saved,
               const Matrix<double>& statistics = {},
               const std::vector<Routing<T>>& replay = {}) const;

  /// Writes `sums` (ElectraSums::width), unscaled. The loss is
  ///   ctx.loss_scale (generator's sum) + discriminator_weight / ctx.update_tokens (the other one):
  /// loss_scale is 1 / (hidden tokens of the whole update). With `gradient`, the logits become the
  /// loss's gradients. `sequence_loss` (B), where given: what routers that learn from the loss
  /// expect in ctx.sequence_loss, the discriminator's part of it over loss_scale.
  void losses(const StepContext& ctx, Saved& saved, bool gradient, const Vector<double>& sums,
              const Vector<double>& sequence_loss = {}) const;

  /// After losses(gradient) -> parameter gradients.
  void backward(const StepContext& ctx, Saved& saved) const;

  int moe_layers() const { return discriminator_.moe_layers(); }
  Encoder<T>& generator() { return generator_; }
  Encoder<T>& discriminator() { return discriminator_; }
  const Encoder<T>& generator() const { return generator_; }
  const Encoder<T>& discriminator() const { return discriminator_; }
  const ElectraConfig& config() const { return config_; }

 private:
  void generate(const StepContext& ctx, const ElectraInput& input, Saved& saved) const;
  void discriminate(const StepContext& ctx, const ElectraInput& input, Saved& saved,
                    const Matrix<double>& statistics, const std::vector<Routing<T>>& replay) const;
  void generator_backward(const StepContext& ctx, Saved& saved) const;
  void discriminator_backward(const StepContext& ctx, Saved& saved) const;

  ElectraConfig config_;
  ParameterStore<T>* store_;
  Encoder<T> discriminator_, generator_;
  GeluLinear<T> generator_dense_;
  Norm<T> generator_norm_;
  ParameterHandle generator_bias_;
  GeluLinear<T> discriminator_dense_;
  Linear<T> discriminator_out_;
};

/// The generator's own sizes.
EncoderConfig generator_config(const ElectraConfig& config);

}  // namespace kokomoe
