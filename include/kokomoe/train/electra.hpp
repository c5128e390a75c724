// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/corpus.hpp"
#include "kokomoe/data/masking.hpp"
#include "kokomoe/train/electra_deck.hpp"
#include "kokomoe/train/trainer.hpp"

#include <optional>
#include <vector>

namespace kokomoe {

struct ElectraReport {
  double generator_loss = 0;          ///< nats a hidden token
  double discriminator_loss = 0;      ///< nats a token
  double generator_accuracy = 0;      ///< share of hidden tokens that have the largest logit
  double discriminator_accuracy = 0;  ///< share of tokens told right
  double replaced = 0;                ///< share of tokens that are others than the text's
  double found = 0;                   ///< share of these that are told
  std::int64_t tokens = 0;
};

/// Pre-training by replaced-token detection, with everything that it needs. See ElectraModel.
template <class T>
class ElectraTrainer : public Trainer<T> {
 public:
  /// `communicator` must outlive it. Without `corpus` only evaluation works. With sharded experts
  /// every call is collective.
  ElectraTrainer(const ElectraTaskConfig& config, const SpecialTokens& special,
                 const Communicator& communicator, std::optional<Corpus> corpus,
                 std::optional<Corpus> heldout = {});

  /// Over all windows, which hide the same tokens each time. Collective.
  ElectraReport evaluate(const EvalWindows& windows);
  Evaluation evaluate_heldout(bool thoroughly = false) override;
  double heldout_tokens() const override;
  std::string data_digest() const override;
  std::string data_summary() const override;

  const ElectraModel<T>& model() const { return model_; }
  const ElectraTaskConfig& config() const { return config_; }

 private:
  void fill(std::int64_t step, int micro_batch) override;
  void pass(std::int64_t step, const Vector<double>& sums, const Matrix<double>& load) override;
  double task_loss(const double* sums) const override;
  /// Windows with special tokens in them, some tokens hidden.
  void fill_micro_batch(std::int64_t step, int micro_batch);
  /// What the model is told of the batch that was filled last.
  ElectraInput input();

  ElectraTaskConfig config_;
  SpecialTokens special_;
  TokenMasking masking_;
  ElectraModel<T> model_;
  std::optional<Corpus> corpus_;
  std::optional<LmBatches> batches_;
  std::optional<EvalWindows> heldout_;
  typename ElectraModel<T>::Saved state_;
  HostBatch host_batch_;
  DeviceBatch device_batch_;
  std::vector<int> host_segments_;
  Vector<int> device_segments_;
  MaskedBatch host_masked_;
  DeviceMaskedBatch device_masked_;
  std::int64_t hidden_ = 0;  ///< tokens hidden in the whole update
};

}  // namespace kokomoe
