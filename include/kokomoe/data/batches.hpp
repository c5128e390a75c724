// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/corpus.hpp"
#include "kokomoe/parallel/step_context.hpp"

#include <cstdint>
#include <vector>

namespace kokomoe {

/// One rank's part of a micro-batch in host memory, packed. Reused from step to step.
struct HostBatch {
  std::vector<int> ids;                       ///< (T)
  std::vector<int> targets;                   ///< (T) -1 = not scored
  std::vector<int> sequence_offsets;          ///< (B+1)
  std::vector<std::uint32_t> sequence_index;  ///< (T) index in the whole update
  std::vector<int> position;                  ///< (T) in the sequence
  int tokens = 0;
  int sequences = 0;
  int max_length = 0;
  std::int64_t scored = 0;         ///< targets of this part
  std::int64_t global_tokens = 0;  ///< of this micro-batch over all ranks
  std::int64_t update_tokens = 0;  ///< of the whole update (evaluation: of all windows) over all
  std::int64_t global_scored = 0;  ///< of the whole update (evaluation: of this batch) over all
};

/// Training batches of a language model, a function of (seed, step) alone. An update is
/// B = batch_tokens / sequence_length sequences; sequence i of step s starts at a token drawn
/// uniformly by Philox (purpose batch, counter (s, i)) and predicts each token's successor.
class LmBatches {
 public:
  /// InputError when sequence_length does not divide batch_tokens, when micro-batches would be
  /// empty, or when the corpus is too short.
  LmBatches(Corpus corpus, std::uint64_t seed, std::int64_t batch_tokens, int sequence_length,
            int micro_batches = 1);

  int sequences() const { return sequences_; }  ///< B
  int micro_batches() const { return micro_batches_; }
  /// The most tokens that one rank of `ranks` gets in one micro-batch.
  int capacity(int ranks) const;

  /// Rank r's part of micro-batch a: sequences [0, B) are cut by micro-batch, then by rank, into
  /// contiguous runs whose lengths differ by one at most; a rank may get none.
  void fill(std::int64_t step, int micro_batch, int rank, int ranks, HostBatch& batch) const;

 private:
  Corpus corpus_;
  std::uint64_t seed_;
  int sequence_length_;
  int sequences_;
  int micro_batches_;
};

/// A held-out stream in windows of `length` tokens every `stride`: each token after a beginning of
/// text is scored exactly once, by the first window that reaches it, so with at least
/// length - stride tokens of context where the stream has them.
class EvalWindows {
 public:
  /// `stride` 0 = length / 2. `batch_tokens`: most tokens a rank takes at once (at least one
  /// window). `max_tokens` > 0 scores only about the first so many. InputError for a corpus of one
  /// token.
  EvalWindows(Corpus corpus, int length, int stride, std::int64_t batch_tokens, int ranks = 1,
              std::int64_t max_tokens = 0);

  int windows() const { return windows_; }
  /// The same on every rank; a rank may have no tokens in the last ones.
  int batches() const;
  int capacity() const;  ///< the most tokens of one rank's batch
  void fill(int batch, int rank, HostBatch& batch_out) const;

  std::int64_t scored() const { return scored_; }          ///< tokens scored over all windows
  std::int64_t text_bytes() const { return text_bytes_; }  ///< bytes that these stand for

 private:
  std::size_t window_begin(int window) const;
  std::size_t first_scored(int window) const;  ///< index in the stream of the first new target

  Corpus corpus_;
  int length_;
  int stride_;
  int ranks_;
  int windows_ = 0;
  int windows_per_rank_ = 1;
  std::size_t end_ = 0;  ///< tokens of the stream in use
  std::int64_t scored_ = 0;
  std::int64_t text_bytes_ = 0;
};

}  // namespace kokomoe
