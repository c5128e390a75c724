// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/train/model_count.hpp"

#include <cstdint>
#include <string>

namespace kokomoe {

/// Bytes of a group of tensors.
struct TensorBytes {
  double values = 0, gradients = 0, moments = 0;
  double exact_sums = 0;  ///< of gradients, with parallel/deterministic = "layout"
  double total() const { return values + gradients + moments + exact_sums; }
};

/// Bytes on the device of the rank that owns the most experts, with balanced experts.
struct MemoryPlan {
  TensorBytes replicated;  ///< and what is kept without being trained
  TensorBytes experts;     ///< of this rank
  double saved = 0;    ///< by a micro-batch's forward for its backward; an evaluation takes no more
  double scratch = 0;  ///< most of it at once
  double tables = 0;   ///< of rotary positions
  double total() const;
};

/// What a rank hands over in one update.
struct TrafficPlan {
  double dispatch = 0;  ///< bytes to other ranks, rows to their experts
  double combine = 0;   ///< and their results back
  double dispatch_backward = 0, combine_backward = 0;
  double messages = 0;              ///< of all exchanges
  double replicated_gradients = 0;  ///< bytes that every rank sums with all others
  double expert_gradients = 0;      ///< with those that hold the same experts
  double exchanged() const { return dispatch + combine + dispatch_backward + combine_backward; }
};

/// What a deck asks of each of `ranks` ranks.
struct StepPlan {
  int ranks = 1;         ///< R
  int expert_ranks = 1;  ///< P
  std::string shape;     ///< the model in words: "4 layers, d_model 128, ..."
  bool double_precision = false;
  ModelCount model;
  double length = 0;                    ///< tokens of a sequence, as the deck says or as assumed
  std::int64_t update_tokens = 0;       ///< over all ranks; of either side, where there are two
  std::int64_t rank_tokens = 0;         ///< of an update, on the rank that has the most
  std::int64_t micro_batch_tokens = 0;  ///< the same of one micro-batch
  MemoryPlan memory;
  TrafficPlan traffic;
};

/// `config` with a vocabulary, and token counts where the router hashes. Allocates neither
/// parameters nor activations. `length`: mean tokens of a sequence; 0, or more than there may be:
/// the most that the deck allows. Translations are planned with as many tokens of either side as an
/// update may have. Throws InputError when parallel/expert_ranks does not divide the ranks or
/// train/freeze matches nothing.
StepPlan plan_step(const LanguageModelConfig& config, int ranks);
StepPlan plan_step(const TranslationConfig& config, int ranks, double length = 0);
StepPlan plan_step(const ElectraTaskConfig& config, int ranks);
StepPlan plan_step(const SentenceTaskConfig& config, int ranks, double length = 0);

/// What a machine's rank can do.
struct MachineRates {
  double gemm = 0;          ///< floating-point operations a second
  double bandwidth = 25e9;  ///< bytes a second to other ranks
  double latency = 2e-6;    ///< seconds a message
};

/// Seconds of an update when products run at the GEMM rate, everything else of a rank's own work
/// costs nothing, and nothing overlaps.
struct StepSeconds {
  double arithmetic = 0, exchange = 0, reduction = 0;
  double total() const { return arithmetic + exchange + reduction; }
};

StepSeconds predict_step(const StepPlan& plan, const MachineRates& rates);

}  // namespace kokomoe
