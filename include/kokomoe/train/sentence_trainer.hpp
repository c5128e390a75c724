// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/train/sentence_deck.hpp"
#include "kokomoe/train/trainer.hpp"

#include <optional>
#include <vector>

namespace kokomoe {

/// A model that tells a class or a number of a sentence or a pair, with everything that training
/// and evaluation need. See SentenceClassifier.
template <class T>
class SentenceTrainer : public Trainer<T> {
 public:
  /// `communicator` must outlive it. Without `corpus` only evaluation works. With sharded experts
  /// every call is collective.
  SentenceTrainer(const SentenceTaskConfig& config, const SpecialTokens& special,
                  const Communicator& communicator, std::optional<SentenceCorpus> corpus,
                  std::optional<SentenceCorpus> heldout = {});

  /// Takes over embedding and encoder from another model's store, laid out over the ranks as this
  /// one's. InputError that names a tensor that is not there, or has another shape.
  void begin_with(const ParameterStore<T>& other);

  /// (rows, C) in the rows' order: logits of classes, or numbers. `loss`: summed over rows, which
  /// need labels then. Collective; all ranks get all.
  std::vector<double> predict(const SentenceCorpus& corpus, double* loss = nullptr);
  /// The same as words: the label of the largest logit, or the number.
  std::vector<std::string> predicted_labels(const SentenceCorpus& corpus);
  /// Figures: accuracy, matthews and, of two classes, f1 of the second; or pearson and spearman.
  Evaluation evaluate_heldout(bool thoroughly = false) override;
  double heldout_tokens() const override;
  std::string data_digest() const override;
  std::string data_summary() const override;

  const SentenceClassifier<T>& model() const { return model_; }
  const SentenceTaskConfig& config() const { return config_; }

 private:
  void fill(std::int64_t step, int micro_batch) override;
  void pass(std::int64_t step, const Vector<double>& sums, const Matrix<double>& load) override;
  double task_loss(const double* sums) const override;
  void losses(const StepContext& ctx, bool gradient, const Vector<double>& sums,
              const Vector<double>& sequence_loss = {});
  Vector<const int> segments();
  EvalSentences sentences_of(const SentenceCorpus& corpus) const;
  double mean_length(const SentenceCorpus& corpus) const;  ///< tokens of a row

  SentenceTaskConfig config_;
  SpecialTokens special_;
  SentenceClassifier<T> model_;
  std::optional<SentenceCorpus> corpus_, heldout_;
  double mean_length_ = 0;  ///< of corpus_
  std::optional<SentenceBatches> batches_;
  typename SentenceClassifier<T>::Saved state_;
  HostSentenceBatch host_batch_;
  DeviceBatch device_batch_;
  Vector<int> device_segments_, device_labels_;
  Vector<double> device_numbers_;
};

}  // namespace kokomoe
