// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/pairs.hpp"
#include "kokomoe/train/beam_search.hpp"
#include "kokomoe/train/trainer.hpp"
#include "kokomoe/train/translation_deck.hpp"

#include <memory>
#include <optional>
#include <vector>

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
  /// `heldout` there is nothing held out, without `tokenizer` no text. With sharded experts every
  /// call is collective.
  Translation(const TranslationConfig& config, const Communicator& communicator,
              std::optional<PairCorpus> corpus, std::optional<PairCorpus> heldout = {},
              std::shared_ptr<const Tokenizer> tokenizer = nullptr);

  /// The mean loss of the target side, given the true tokens before. Collective.
  TranslationReport evaluate(const EvalPairs& pairs);
  /// Thoroughly: `bleu` and `chrf` too, of translations of every held-out line, one too long cut to
  /// what the model takes; on one rank with a tokenizer alone.
  Evaluation evaluate_heldout(bool thoroughly = false) override;
  std::vector<Sample> samples(int count, const Tokenizer& tokenizer) override;
  double heldout_tokens() const override;
  std::string data_digest() const override;
  std::string data_summary() const override;

  /// The best hypothesis for each source (token ids without its end), by config()'s search; no
  /// tokens for none. Sources longer than max_source() are refused: InputError. On this rank alone,
  /// with a tokenizer.
  std::vector<Hypothesis> translate(const std::vector<std::vector<int>>& sources);
  /// Tokens of a source at most, without its end.
  int max_source() const { return config_.model.max_length - 1; }

  const EncoderDecoder<T>& model() const { return model_; }
  const TranslationConfig& config() const { return config_; }

 private:
  void fill(std::int64_t step, int micro_batch) override;
  void pass(std::int64_t step, const Vector<double>& sums, const Matrix<double>& load) override;
  double task_loss(const double* sums) const override;
  void count_work();
  /// A held-out pair's sides; the source is cut to what the model takes.
  std::vector<int> heldout_source(std::int64_t pair) const;
  std::vector<int> heldout_target(std::int64_t pair) const;
  void score_translations(Evaluation& evaluation);

  TranslationConfig config_;
  EncoderDecoder<T> model_;
  std::optional<PairCorpus> corpus_;
  std::optional<PairBatches> batches_;
  std::optional<PairCorpus> heldout_corpus_;
  std::optional<EvalPairs> heldout_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  typename EncoderDecoder<T>::Saved state_;
  HostPairBatch host_batch_;
  DeviceBatch device_source_, device_target_;
};

}  // namespace kokomoe
