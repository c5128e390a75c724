// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/tokenizer.hpp"
#include "kokomoe/parallel/communicator.hpp"
#include "kokomoe/train/step_plan.hpp"
#include "train/stack_memory.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace kokomoe::detail {

/// What an update's `sequences` of `length` tokens, cut by micro-batch and then by rank, are on the
/// rank that has the most.
struct TokenShares {
  double update = 0, rank = 0, micro_batch = 0;
};
TokenShares share_sequences(double sequences, double length, int micro_batches, int ranks);
/// Makes a micro-batch longer by `tokens`, to `most` at most: sequences differ, and are not split.
void make_room(double tokens, double most, TokenShares& shares);
/// The same of windows of a text.
TokenShares share_windows(const TrainConfig& config, int sequence_length, int ranks);

/// Bytes of some tokens from the two arenas.
struct ActivationBytes {
  double saved = 0;
  double scratch = 0;  ///< the most at once
};

template <class T>
double matrix_bytes(double rows, double columns) {
  return sizeof(T) * rows * columns;
}

/// The mean length that a plan is asked for; 0 = as long as the deck allows.
inline double planned_length(double asked, int longest) {
  return asked > 0 ? std::min<double>(asked, longest) : longest;
}

/// A mean length as one that sequences may have.
inline int whole_tokens(double length) {
  return std::max(1, static_cast<int>(std::lround(length)));
}

/// RoutingMemory::rows of MoE layers with this vocabulary in sequences of this length; 0 when
/// moe_every is.
template <class T>
double rows_of_token(MoeConfig moe, int moe_every, int vocabulary, double length);

/// Scratch of the gradient of a table that `tokens` look up: their order by row.
double lookup_scratch(double tokens, double table_rows);

/// Of the tokenizer that training would have: of its model where there is one, else what the deck
/// asks for. Collective.
int planned_vocabulary(const TokenizerOptions& tokenizer, const Communicator& communicator,
                       std::vector<std::string>& notes);

/// "d_model 128, d_hidden 256, vocabulary 257".
std::string shape_text(const MoeConfig& moe, int vocabulary);

/// What plans of all tasks do alike. First a task declares its model's tensors in store(), never
/// allocated; then declared() makes the blocks' memory; then finish().
template <class T>
class StepPlanner {
 public:
  /// InputError when parallel/expert_ranks does not divide the ranks.
  StepPlanner(const TrainConfig& config, int ranks, const TokenShares& shares);

  ParameterStore<T>& store() { return store_; }
  /// InputError when train/freeze matches nothing.
  void declared();
  /// Counts the exchanges of its MoE layers too.
  StackMemory<T> stack(const BlockStack<T>& stack, double length);
  double tokens() const { return shares_.micro_batch; }
  /// `activations` of tokens(). `tables`: bytes that are neither parameters nor in arenas.
  /// `length`: see StepPlan.
  StepPlan finish(ModelCount model, const ActivationBytes& activations, double tables,
                  double length, std::string shape);

 private:
  void add_tensors();
  /// Gradients of what is trained, as they travel.
  double gradient_bytes(typename ParameterStore<T>::Group group) const;

  TrainConfig config_;
  TokenShares shares_;
  StepPlan plan_;
  ParameterStore<T> store_;
};

/// The count of a model whose stacks' operations are `stacks`.
ModelCount with_stacks(ModelCount all, const std::vector<ModelCount>& stacks);

}  // namespace kokomoe::detail
