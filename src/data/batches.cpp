// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/data/batches.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/philox.hpp"

#include <algorithm>
#include <limits>
#include <utility>

namespace kokomoe {

namespace {

struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

/// Part `part` of `parts` of a range, contiguous, sizes differing by one at most.
Range cut(Range whole, std::int64_t part, std::int64_t parts) {
  const std::int64_t size = whole.end - whole.begin;
  return {whole.begin + part * size / parts, whole.begin + (part + 1) * size / parts};
}

std::int64_t round_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

/// Room for `sequences` sequences of `length` tokens each; grows the vectors only.
void start(HostBatch& batch, std::int64_t sequences, std::int64_t length) {
  const auto tokens = static_cast<std::size_t>(sequences * length);
  batch.ids.resize(tokens);
  batch.targets.resize(tokens);
  batch.position.resize(tokens);
  batch.sequence_index.resize(tokens);
  batch.sequence_offsets.resize(static_cast<std::size_t>(sequences) + 1);
  batch.sequence_offsets[0] = 0;
  batch.tokens = static_cast<int>(tokens);
  batch.sequences = static_cast<int>(sequences);
  batch.max_length = sequences > 0 ? static_cast<int>(length) : 0;
  batch.scored = 0;
}

/// Sequence `slot` of a batch: tokens [begin, begin + length) and their successors.
void put(HostBatch& batch, std::int64_t slot, std::int64_t length, const Corpus& corpus,
         std::size_t begin, std::int64_t index) {
  const auto first = static_cast<std::size_t>(slot * length);
  corpus.copy(begin, static_cast<std::size_t>(length), batch.ids.data() + first);
  corpus.copy(begin + 1, static_cast<std::size_t>(length), batch.targets.data() + first);
  for (std::int64_t i = 0; i < length; ++i) {
    batch.position[first + static_cast<std::size_t>(i)] = static_cast<int>(i);
    batch.sequence_index[first + static_cast<std::size_t>(i)] = static_cast<std::uint32_t>(index);
  }
  batch.sequence_offsets[static_cast<std::size_t>(slot) + 1] =
      static_cast<int>((slot + 1) * length);
}

/// Philox keeps positions in 24 bits.
constexpr int longest_sequence = 1 << 24;

}  // namespace

LmBatches::LmBatches(Corpus corpus, std::uint64_t seed, std::int64_t batch_tokens,
                     int sequence_length, int micro_batches)
    : corpus_(std::move(corpus)),
      seed_(seed),
      sequence_length_(sequence_length),
      micro_batches_(micro_batches) {
  if (sequence_length < 1 || sequence_length > longest_sequence)
    throw InputError("a sequence length of " + std::to_string(sequence_length) +
                     " is not between 1 and " + std::to_string(longest_sequence));
  if (batch_tokens < 1 || batch_tokens % sequence_length != 0 ||
      batch_tokens > std::numeric_limits<int>::max())
    throw InputError("batches of " + std::to_string(batch_tokens) +
                     " tokens are not whole sequences of " + std::to_string(sequence_length) +
                     " tokens");
  sequences_ = static_cast<int>(batch_tokens / sequence_length);
  if (micro_batches < 1 || micro_batches > sequences_)
    throw InputError("batches of " + std::to_string(sequences_) + " sequences cannot be cut into " +
                     std::to_string(micro_batches) + " micro-batches");
  if (corpus_.size() <= static_cast<std::size_t>(sequence_length))
    throw InputError("the text has " + std::to_string(corpus_.size()) +
                     " tokens: too few for sequences of " + std::to_string(sequence_length));
}

int LmBatches::capacity(int ranks) const {
  const std::int64_t micro = round_up(sequences_, micro_batches_);
  return static_cast<int>(round_up(micro, ranks) * sequence_length_);
}

void LmBatches::fill(std::int64_t step, int micro_batch, int rank, int ranks,
                     HostBatch& batch) const {
  const Range micro = cut({0, sequences_}, micro_batch, micro_batches_);
  const Range mine = cut(micro, rank, ranks);
  const std::int64_t length = sequence_length_;
  start(batch, mine.end - mine.begin, length);
  const PhiloxStream stream(seed_, Purpose::batch, static_cast<std::uint64_t>(step), 0, 0);
  const std::uint64_t starts = corpus_.size() - static_cast<std::size_t>(length);
  for (std::int64_t index = mine.begin; index < mine.end; ++index) {
    const PhiloxBlock draw = stream.block(static_cast<std::uint32_t>(index), 0, 0);
    const std::uint64_t bits = static_cast<std::uint64_t>(draw.word[1]) << 32 | draw.word[0];
    // floor(bits / 2^64 * starts), without a remainder's bias to low offsets.
    const auto begin = static_cast<std::size_t>(
        (static_cast<__uint128_t>(bits) * static_cast<__uint128_t>(starts)) >> 64);
    put(batch, index - mine.begin, length, corpus_, begin, index);
  }
  batch.scored = batch.tokens;
  batch.global_tokens = (micro.end - micro.begin) * length;
  batch.update_tokens = static_cast<std::int64_t>(sequences_) * length;
  batch.global_scored = static_cast<std::int64_t>(sequences_) * length;
}

EvalWindows::EvalWindows(Corpus corpus, int length, int stride, std::int64_t batch_tokens,
                         int ranks, std::int64_t max_tokens)
    : corpus_(std::move(corpus)), length_(length), stride_(stride), ranks_(ranks) {
  if (length < 1 || length > longest_sequence)
    throw InputError("an evaluation window of " + std::to_string(length) + " tokens");
  if (stride_ == 0) stride_ = std::max(1, length / 2);
  if (stride_ < 1 || stride_ > length)
    throw InputError("an evaluation stride of " + std::to_string(stride_) +
                     " is not between 1 and the window, " + std::to_string(length));
  end_ = corpus_.size();
  if (max_tokens > 0) end_ = std::min(end_, static_cast<std::size_t>(max_tokens) + 1);
  if (end_ < 2) throw InputError("the held-out text has no token to score");
  const auto predictions = static_cast<std::int64_t>(end_ - 1);
  length_ = static_cast<int>(std::min<std::int64_t>(length_, predictions));
  stride_ = std::min(stride_, length_);
  windows_ = static_cast<int>(1 + round_up(predictions - length_, stride_));
  windows_per_rank_ = static_cast<int>(std::max<std::int64_t>(1, batch_tokens / length_));
  windows_per_rank_ = std::min(windows_per_rank_, static_cast<int>(round_up(windows_, ranks)));
  for (std::size_t i = 1; i < end_; ++i) {
    const int id = corpus_[i];
    if (id == corpus_.beginning_of_text()) continue;
    ++scored_;
    text_bytes_ += corpus_.bytes_of(id);
  }
  // A tokenizer that normalises text knows its bytes only as a whole.
  if (end_ == corpus_.size()) text_bytes_ = corpus_.text_bytes();
}

int EvalWindows::batches() const {
  return static_cast<int>(
      round_up(windows_, static_cast<std::int64_t>(windows_per_rank_) * ranks_));
}

int EvalWindows::capacity() const {
  return windows_per_rank_ * length_;
}

std::size_t EvalWindows::window_begin(int window) const {
  // The last window ends where the stream does, so that its tokens have the most context.
  return std::min(static_cast<std::size_t>(window) * static_cast<std::size_t>(stride_),
                  end_ - 1 - static_cast<std::size_t>(length_));
}

std::size_t EvalWindows::first_scored(int window) const {
  return window == 0 ? 1 : window_begin(window - 1) + static_cast<std::size_t>(length_) + 1;
}

void EvalWindows::fill(int batch_index, int rank, HostBatch& batch) const {
  const std::int64_t group = static_cast<std::int64_t>(windows_per_rank_) * ranks_;
  const Range all = {batch_index * group,
                     std::min<std::int64_t>(windows_, (batch_index + 1) * group)};
  const Range mine = cut(all, rank, ranks_);
  start(batch, mine.end - mine.begin, length_);
  for (std::int64_t w = mine.begin; w < mine.end; ++w) {
    const std::size_t begin = window_begin(static_cast<int>(w));
    put(batch, w - mine.begin, length_, corpus_, begin, w);
    int* const targets = batch.targets.data() + (w - mine.begin) * length_;
    const std::size_t first = first_scored(static_cast<int>(w));
    for (std::size_t i = 0; i < static_cast<std::size_t>(length_); ++i) {
      if (begin + 1 + i < first || targets[i] == corpus_.beginning_of_text())
        targets[i] = -1;
      else
        ++batch.scored;
    }
  }
  batch.global_tokens = (all.end - all.begin) * length_;
  // Sums stand on a grid of so many tokens: the same for any split into batches, and wide enough
  // for the batches' sums to add up without rounding.
  batch.update_tokens = static_cast<std::int64_t>(windows_) * length_;
  // Counted without the other ranks' tokens: targets from the group's first new one to its last.
  const std::size_t from = first_scored(static_cast<int>(all.begin));
  const std::size_t to =
      window_begin(static_cast<int>(all.end) - 1) + static_cast<std::size_t>(length_);
  batch.global_scored = 0;
  for (std::size_t i = from; i <= to; ++i)
    if (corpus_[i] != corpus_.beginning_of_text()) ++batch.global_scored;
}

}  // namespace kokomoe
