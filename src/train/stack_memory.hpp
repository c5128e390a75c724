// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/bfloat16.hpp"
#include "kokomoe/model/block_stack.hpp"
#include "kokomoe/moe/layer_memory.hpp"
#include "kokomoe/train/train_config.hpp"

namespace kokomoe::detail {

/// Bytes that transformer blocks take from the two arenas in a training step of a rank, with
/// balanced experts: what Block takes there, in terms of tokens, and MoE layers whose experts lie
/// on several ranks. Others, routers and experts are run and looked at (see layer_memory.hpp). What
/// is as small as one number a token may be missing. `memory`: rows that blocks with
/// cross-attention attend to.
template <class T>
class StackMemory {
 public:
  /// `sequence_length`: tokens. `micro_batch`: this rank's tokens, on which the number of parts of
  /// an exchange depends.
  StackMemory(const BlockStack<T>& stack, const TrainConfig& train, int sequence_length,
              int expert_ranks, double micro_batch);

  double saved(double tokens, double memory = 0) const;  ///< but for `recomputed`
  double recomputed(double tokens) const;  ///< of the same arena, one layer at a time, in backward
  /// Scratch, the most at once.
  double forward(double tokens, double memory = 0) const;
  double backward(double tokens, double memory = 0) const;  ///< beside the gradient dx
  double rows_of_token() const { return routing_.rows; }
  int moe_layers() const { return moe_layers_; }
  int d_model() const { return blocks_.moe.d_model; }
  int chunks() const { return chunks_; }  ///< parts of an exchange

 private:
  double block_saved(double tokens, double memory) const;
  double moe_saved(double tokens) const;
  double sum_kept(double tokens) const;
  double gain_scratch() const;
  double padded(double rows) const;
  double sharded_experts_saved(double tokens) const;
  double moe_forward(double tokens) const;
  double moe_backward(double tokens) const;
  double attention_backward(double tokens) const;
  double cross_backward(double tokens, double memory) const;
  double matrix(double rows, double columns) const { return sizeof(T) * rows * columns; }
  /// What is kept rounded, and what it takes in scratch then while it is in use.
  double kept(double rows, double columns) const {
    return (round_kept_ ? sizeof(Bfloat16) : sizeof(T)) * rows * columns;
  }
  double in_use(double rows, double columns) const {
    return round_kept_ ? matrix(rows, columns) : 0;
  }
  /// Whether backward computes a branch's input again, see Residual.
  bool again() const { return round_kept_ && !blocks_.post_norm; }
  double rows(double tokens) const { return routing_.rows * tokens; }
  bool sharded() const { return expert_ranks_ > 1; }

  BlockStackConfig blocks_;
  bool layout_free_, round_kept_;
  int sequence_length_, moe_layers_, expert_ranks_;
  int chunks_ = 1;
  double d_;
  RoutingMemory routing_;
  LayerMemory layer_;                       ///< with all experts on this rank
  ExpertsMemory dense_, experts_, shared_;  ///< the latter of layers that are not
};

}  // namespace kokomoe::detail
