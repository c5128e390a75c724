// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/model/encoder.hpp"
#include "kokomoe/model/token_selection.hpp"
#include "kokomoe/nn/gelu_linear.hpp"

#include <vector>

namespace kokomoe {

struct SentenceClassifierConfig {
  EncoderConfig encoder;
  int classes = 2;          ///< C; 1 = one number is predicted
  double head_dropout = 0;  ///< before the last layer
};

/// Sums over the sentences of this rank, on the device:
///   [ loss: nats or squared errors | sentences told right, 0 for numbers ]
struct SentenceSums {
  static constexpr int width = 2;
};

/// An encoder whose first token of each sentence, or pair of them, tells its class or a number.
/// Tensors embedding.* and discriminator.encoder.*, named as in ElectraModel, whose parameters they
/// take over; sentence.dense.* (d to d) and sentence.out.* (d to C).
template <class T>
class SentenceClassifier {
 public:
  struct Saved {
    typename Encoder<T>::Saved encoder;
    typename GeluLinear<T>::Saved dense;
    TokenSelection first;   ///< the first token of each sequence
    Matrix<T> active;       ///< (B, d) after dropout
    Matrix<T> predictions;  ///< (B, C) logits or numbers; after a loss with gradient that
  };

  /// Registers everything with `store`. Throws InputError when the sizes do not go together.
  SentenceClassifier(const SentenceClassifierConfig& config, ParameterStore<T>& store);

  /// ctx.tokens, one sequence a sentence and none empty -> saved.predictions (B, C). `segments`,
  /// `statistics` and `replay`: see Encoder.
  Matrix<T> forward(const StepContext& ctx, const Vector<const int>& segments, Saved& saved,
                    const Matrix<double>& statistics = {},
                    const std::vector<Routing<T>>& replay = {}) const;

  /// Softmax cross-entropy against labels (B) in [0, C), -1 = not scored. Writes `sums`
  /// (SentenceSums::width). With `gradient`, predictions become ctx.loss_scale dL/dpredictions;
  /// loss_scale is 1 / (scored sentences of the whole update). `sequence_loss` (B), where given:
  /// each sentence's loss.
  void classification_loss(const StepContext& ctx, Saved& saved, const Vector<const int>& labels,
                           bool gradient, const Vector<double>& sums,
                           const Vector<double>& sequence_loss = {}) const;

  /// Squared errors against `numbers` (B), otherwise the same. C = 1.
  void regression_loss(const StepContext& ctx, Saved& saved, const Vector<const double>& numbers,
                       bool gradient, const Vector<double>& sums,
                       const Vector<double>& sequence_loss = {}) const;

  /// After a loss with gradient -> parameter gradients.
  void backward(const StepContext& ctx, Saved& saved) const;

  int moe_layers() const { return encoder_.moe_layers(); }
  Encoder<T>& encoder() { return encoder_; }
  const Encoder<T>& encoder() const { return encoder_; }
  const SentenceClassifierConfig& config() const { return config_; }

 private:
  SentenceClassifierConfig config_;
  Encoder<T> encoder_;
  GeluLinear<T> dense_;
  Linear<T> out_;
};

}  // namespace kokomoe
