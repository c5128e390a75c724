// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/batches.hpp"
#include "kokomoe/data/device_batch.hpp"
#include "kokomoe/model/decoder_lm.hpp"
#include "kokomoe/parallel/expert_exchange.hpp"
#include "kokomoe/train/language_model_deck.hpp"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace kokomoe {

/// What one update did; sums are over all ranks and micro-batches.
struct UpdateReport {
  std::int64_t step = 0;  ///< updates done, this one included
  double loss = 0;        ///< task + auxiliary
  double task_loss = 0;   ///< nats a token, label smoothing included
  double aux_loss = 0;
  double learning_rate = 0;
  double grad_norm = 0;  ///< before clipping
  std::int64_t tokens = 0;             ///< of this update
  std::vector<LoadMetrics> load;       ///< one for each MoE layer, of the last micro-batch
  /// Why the update was left out: what was not finite, in which layer and tensor. "": it was made.
  std::string not_finite;
};

struct EvaluationReport {
  double loss = 0;           ///< nats a scored token
  double bits_per_byte = 0;  ///< of text, whatever the tokenizer
  double perplexity = 0;     ///< exp(loss), a token
  double accuracy = 0;       ///< share of tokens whose argmax is right
  std::int64_t tokens = 0;   ///< scored
  std::int64_t bytes = 0;    ///< of text that they stand for
};

/// A language model with everything that training and evaluation need: parameters, arenas and
/// batches. One step is: fill batch, forward, loss, backward, reduce, clip, AdamW.
template <class T>
class LanguageModel {
 public:
  /// `communicator` must outlive it. Without `corpus` only evaluation and generation work. With
  /// sharded experts every call is collective, generation too.
  LanguageModel(const LanguageModelConfig& config, const Communicator& communicator,
                std::optional<Corpus> corpus);

  /// Update number `step` (from 0), which depends on (deck, step, parameters) alone. When loss or
  /// gradient is not finite, parameters, moments and the routers' state stay as they were, and it
  /// throws Error naming step, layer and tensor, the same on every rank, or, with
  /// config().skip_non_finite, says so in the report. The report is valid until the next update.
  const UpdateReport& update(std::int64_t step);

  /// The mean loss over all windows, in evaluation mode. Collective.
  EvaluationReport evaluate(const EvalWindows& windows);

  /// Continues `prompt` (token ids) by up to `count` tokens, drawn at `temperature` (0 = argmax)
  /// from the `top` most probable (0 = all). On this rank alone.
  std::vector<int> generate(const std::vector<int>& prompt, int count, double temperature, int top,
                            std::uint64_t seed);

  ParameterStore<T>& store() { return store_; }
  const DecoderLm<T>& model() const { return model_; }
  const LanguageModelConfig& config() const { return config_; }
  const ExpertLayout& layout() const { return layout_; }
  /// Null where every rank has all experts.
  const ExpertExchange* exchange() const { return exchange_.get(); }
  /// What the last micro-batch's forward left, for studies and tests.
  const typename DecoderLm<T>::Saved& saved() const { return state_; }
  std::size_t peak_bytes() const;  ///< device memory: parameters, moments, arenas
  std::size_t saved_bytes() const { return saved_.high_water(); }      ///< most of it in use so far
  std::size_t scratch_bytes() const { return scratch_.high_water(); }  ///< likewise
  int arena_growths() const { return saved_.growths() + scratch_.growths(); }

 private:
  StepContext context(const HostBatch& batch, bool training, std::int64_t step);
  void end_step(std::int64_t step);
  bool check_finite(UpdateReport& report);

  LanguageModelConfig config_;
  ExpertLayout layout_;
  const Communicator* communicator_;  ///< all ranks
  std::unique_ptr<ExpertExchange> exchange_;  ///< null where every rank has all experts
  ExecutionSpace space_;
  ParameterStore<T> store_;
  DecoderLm<T> model_;
  std::optional<LmBatches> batches_;
  Arena saved_, scratch_;
  typename DecoderLm<T>::Saved state_;
  HostBatch host_batch_;
  DeviceBatch device_batch_;
  Vector<double> counts_;      ///< (MoE layers, E) of one update, over all ranks
  Vector<double> statistics_;  ///< micro-batches of [loss sums | MoE layers]
  Vector<double>::host_mirror_type host_statistics_;
  bool needs_sequence_loss_ = false;  ///< of some router's
  // Kept between updates, which so ask for no memory.
  UpdateReport report_;
  std::vector<double> shares_;  ///< of each micro-batch in the update's tokens
};

}  // namespace kokomoe
