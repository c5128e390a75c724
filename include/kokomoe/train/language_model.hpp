// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/model/decoder_lm.hpp"
#include "kokomoe/train/language_model_deck.hpp"
#include "kokomoe/train/trainer.hpp"

#include <optional>
#include <string>
#include <vector>

namespace kokomoe {

struct EvaluationReport {
  double loss = 0;           ///< nats a scored token
  double bits_per_byte = 0;  ///< of text, whatever the tokenizer
  double perplexity = 0;     ///< exp(loss), a token
  double accuracy = 0;       ///< share of tokens whose argmax is right
  std::int64_t tokens = 0;   ///< scored
  std::int64_t bytes = 0;    ///< of text that they stand for
};

/// A language model with everything that training and evaluation need.
template <class T>
class LanguageModel : public Trainer<T> {
 public:
  /// `communicator` must outlive it. Without `corpus` only evaluation and generation work; without
  /// `heldout` there is nothing held out. With sharded experts every call is collective, generation
  /// too.
  LanguageModel(const LanguageModelConfig& config, const Communicator& communicator,
                std::optional<Corpus> corpus, std::optional<Corpus> heldout = {});

  /// The mean loss over all windows, in evaluation mode. Collective.
  EvaluationReport evaluate(const EvalWindows& windows);
  Evaluation evaluate_heldout(bool thoroughly = false) override;
  std::vector<Sample> samples(int count, const Tokenizer& tokenizer) override;
  double heldout_tokens() const override;
  std::string data_digest() const override;
  std::string data_summary() const override;

  /// Continues `prompt` (token ids) by up to `count` tokens, drawn at `temperature` (0 = argmax)
  /// from the `top` most probable (0 = all). On this rank alone.
  std::vector<int> generate(const std::vector<int>& prompt, int count, double temperature, int top,
                            std::uint64_t seed);

  const DecoderLm<T>& model() const { return model_; }
  const LanguageModelConfig& config() const { return config_; }
  /// What the last micro-batch's forward left, for studies and tests.
  const typename DecoderLm<T>::Saved& saved() const { return state_; }

 private:
  void fill(std::int64_t step, int micro_batch) override;
  void pass(std::int64_t step, const Vector<double>& sums, const Matrix<double>& load) override;
  double task_loss(const double* sums) const override;

  LanguageModelConfig config_;
  DecoderLm<T> model_;
  std::optional<Corpus> corpus_;
  std::optional<LmBatches> batches_;
  std::optional<Corpus> heldout_corpus_;
  std::optional<EvalWindows> heldout_;
  typename DecoderLm<T>::Saved state_;
  HostBatch host_batch_;
  DeviceBatch device_batch_;
};

}  // namespace kokomoe
