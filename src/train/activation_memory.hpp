// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/layer_memory.hpp"
#include "kokomoe/train/language_model_deck.hpp"

#include <cstdint>

namespace kokomoe::detail {

/// Bytes that a training step takes from its two arenas on a rank, with balanced experts: what
/// Block and DecoderLm take there, in terms of tokens, and MoE layers whose experts lie on several
/// ranks. Others, routers and experts are run and looked at (see layer_memory.hpp). What is as
/// small as one number a token may be missing.
template <class T>
class ActivationMemory {
 public:
  /// `micro_batch`: this rank's tokens, on which the number of parts of an exchange depends.
  ActivationMemory(const LanguageModelConfig& config, int moe_layers, int expert_ranks,
                   std::int64_t micro_batch);

  double saved(std::int64_t tokens) const;
  double scratch(std::int64_t tokens) const;
  double forward_scratch(std::int64_t tokens) const;  ///< of an evaluation
  double rows_of_token() const { return routing_.rows; }
  int chunks() const { return chunks_; }  ///< parts of an exchange

 private:
  double block_saved(double tokens) const;
  double moe_saved(double tokens) const;
  double moe_recomputed(double tokens) const;
  double sum_kept(double tokens) const;
  double gain_scratch() const;
  double padded(double rows) const;
  double sharded_experts_saved(double tokens) const;
  double moe_forward(double tokens) const;
  double moe_backward(double tokens) const;
  double attention_scratch(double tokens) const;
  double embedding_scratch(double tokens) const;
  double head_scratch(double tokens) const;
  double matrix(double rows, double columns) const { return sizeof(T) * rows * columns; }
  bool rounded() const { return config_.round_kept; }
  /// What is kept rounded, and what it takes in scratch then while it is in use.
  double kept(double rows, double columns) const {
    return (rounded() ? sizeof(Bfloat16) : sizeof(T)) * rows * columns;
  }
  double in_use(double rows, double columns) const { return rounded() ? matrix(rows, columns) : 0; }
  double rows(double tokens) const { return routing_.rows * tokens; }
  bool sharded() const { return expert_ranks_ > 1; }

  LanguageModelConfig config_;
  int moe_layers_, expert_ranks_;
  int chunks_ = 1;
  double d_, vocabulary_;
  RoutingMemory routing_;
  LayerMemory layer_;                       ///< with all experts on this rank
  ExpertsMemory dense_, experts_, shared_;  ///< the latter of layers that are not
};

}  // namespace kokomoe::detail
