// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/pairs.hpp"
#include "kokomoe/train/trainer.hpp"
#include "kokomoe/train/translation_deck.hpp"

#include <optional>

namespace kokomoe {

struct TranslationReport {
  double loss = 0;          ///< nats a target token, its sentence's end among them
  double perplexity = 0;    ///< exp(loss)
  double accuracy = 0;      ///< share of target tokens whose argmax is right, given those before
  std::int64_t tokens = 0;  ///< scored
};

/// An encoder-decoder with everything that training and evaluation need.
template <class T>
class Translation : public Trainer<T> {
 public:
  /// `communicator` must outlive it. Without `corpus` only evaluation and translation work; without
  /// `heldout` there is nothing held out. With sharded experts every call is collective.
  Translation(const TranslationConfig& config, const Communicator& communicator,
              std::optional<PairCorpus> corpus, std::optional<PairCorpus> heldout = {});

  /// The mean loss of the target side, given the true tokens before. Collective.
  TranslationReport evaluate(const EvalPairs& pairs);
  Evaluation evaluate_heldout() override;
  double heldout_tokens() const override;
  std::string data_digest() const override;
  std::string data_summary() const override;

  const EncoderDecoder<T>& model() const { return model_; }
  const TranslationConfig& config() const { return config_; }

 private:
  void fill(std::int64_t step, int micro_batch) override;
  void pass(std::int64_t step, const Vector<double>& sums, const Matrix<double>& load) override;
  double task_loss(const double* sums) const override;
  void count_work();

  TranslationConfig config_;
  EncoderDecoder<T> model_;
  std::optional<PairCorpus> corpus_;
  std::optional<PairBatches> batches_;
  std::optional<EvalPairs> heldout_;
  typename EncoderDecoder<T>::Saved state_;
  HostPairBatch host_batch_;
  DeviceBatch device_source_, device_target_;
};

}  // namespace kokomoe
