// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/arena.hpp"
#include "kokomoe/core/types.hpp"
#include "kokomoe/parallel/communicator.hpp"

#include <cstdint>

namespace kokomoe {

/// T real tokens of B sequences, packed without padding. All views are on the device.
struct PackedTokens {
  int tokens = 0;                              ///< T
  int sequences = 0;                           ///< B
  int max_length = 0;                          ///< longest sequence
  Vector<const int> ids;                       ///< (T) token ids
  Vector<const int> targets;                   ///< (T) what to predict, -1 = not scored
  Vector<const int> sequence_offsets;          ///< (B+1) first token of each sequence
  Vector<const std::uint32_t> sequence_index;  ///< (T) index of the sequence in the global batch
  Vector<const int> position;                  ///< (T) position inside the sequence
};

/// Rows that are no text, for codes that hand over plain matrices: row r of this rank has the
/// global number first_row + r, which keys its draws, so that ranks draw independently. Sequence
/// number / 2^24, position number % 2^24. Throws Error beyond 2^56 rows. Allocates: call it once.
PackedTokens number_rows(const ExecutionSpace& space, int rows, std::int64_t first_row = 0);

class ExpertExchange;

/// What every layer is told about the step that it takes part in. Layers keep none of it.
struct StepContext {
  ExecutionSpace space;
  const Communicator* communicator = nullptr;  ///< data-parallel ranks; never null in a step
  Arena* saved = nullptr;    ///< what backward needs; lives until the caller resets it
  Arena* scratch = nullptr;  ///< released by each layer before it returns
  PackedTokens tokens;
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::uint32_t replica = 0;  ///< separates draws for the same token (estimator studies)
  bool training = true;
  /// Tokens of the whole update (all ranks, all micro-batches): the divisor of auxiliary losses.
  double update_tokens = 0;
  /// 1 / (scored tokens of the whole update over all ranks): the scale of the task loss' sum.
  double loss_scale = 0;
  /// (B) task loss of each local sequence, where a router learns from it; else empty.
  Vector<const double> sequence_loss;
  /// Carries rows between the ranks that share the experts; null where every rank has them all.
  ExpertExchange* exchange = nullptr;
  /// The step's results have the same bits for any number of threads and ranks: products row by row
  /// and exact sums over sequences, in a ParameterStore that sums exactly.
  bool layout_free = false;
  /// What forward keeps for backward is rounded to bfloat16 where it is large (KeptRows), and the
  /// norm before a branch is not kept, but computed again. Backward then wants a forward with
  /// `training`: attention uses what it keeps only there.
  bool round_kept = false;
};

}  // namespace kokomoe
