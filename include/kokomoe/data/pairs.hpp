// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/batches.hpp"
#include "kokomoe/data/corpus.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace kokomoe {

/// Two texts, a sentence a line, line n of the one belonging to line n of the other, as tokens.
class PairCorpus {
 public:
  /// See Corpus::open. A byte order mark, and "\r" at the end of a line, are no part of a sentence.
  /// InputError that names both files when file n of the one side has not as many lines as file n
  /// of the other, and when there are not as many files. Collective.
  static PairCorpus open(const std::vector<std::string>& source_files,
                         const std::vector<std::string>& target_files, const Tokenizer& tokenizer,
                         const std::string& cache_folder, const Communicator& communicator);

  std::int64_t size() const { return static_cast<std::int64_t>(source_lines_.size()); }
  /// Tokens of a line, without its end.
  int source_length(std::int64_t pair) const { return at(source_lines_, pair).length; }
  int target_length(std::int64_t pair) const { return at(target_lines_, pair).length; }
  void copy_source(std::int64_t pair, int* out) const {
    copy(source_, at(source_lines_, pair), out);
  }
  void copy_target(std::int64_t pair, int* out) const {
    copy(target_, at(target_lines_, pair), out);
  }

  const Corpus& source() const { return source_; }
  const Corpus& target() const { return target_; }
  /// Begins and ends each side: the tokenizer's beginning of text.
  int end_of_sentence() const { return source_.beginning_of_text(); }

  struct Line {
    std::uint64_t begin;
    int length;
  };

 private:
  PairCorpus(Corpus source, Corpus target, std::vector<Line> source_lines,
             std::vector<Line> target_lines)
      : source_(std::move(source)),
        target_(std::move(target)),
        source_lines_(std::move(source_lines)),
        target_lines_(std::move(target_lines)) {}
  static const Line& at(const std::vector<Line>& lines, std::int64_t pair) {
    return lines[static_cast<std::size_t>(pair)];
  }
  static void copy(const Corpus& corpus, const Line& line, int* out) {
    corpus.copy(line.begin, static_cast<std::size_t>(line.length), out);
  }

  Corpus source_, target_;
  std::vector<Line> source_lines_, target_lines_;
};

/// One rank's part of a micro-batch of pairs: sequence b of one side belongs to sequence b of the
/// other. Source: a line and an end. Target: an end and the line, to predict the line and an end.
struct HostPairBatch {
  HostBatch source, target;
};

/// Batches of pairs, a function of (seed, step) alone. Pairs of like length go together; what goes
/// together is drawn once, and each epoch takes the batches in another order.
class PairBatches {
 public:
  /// At most `batch_tokens` tokens of either side in an update over all ranks and micro-batches.
  /// Pairs with an empty side or one of more than `max_length` tokens, end included, are left out.
  /// InputError when nothing is left, or when batch_tokens is less than max_length or
  /// micro_batches.
  PairBatches(PairCorpus corpus, std::uint64_t seed, std::int64_t batch_tokens, int max_length,
              int micro_batches = 1);

  std::int64_t updates_of_epoch() const { return static_cast<std::int64_t>(batches_.size()) - 1; }
  std::int64_t pairs() const { return static_cast<std::int64_t>(order_.size()); }
  std::int64_t left_out() const { return corpus_.size() - pairs(); }
  int micro_batches() const { return micro_batches_; }

  /// Rank r's part of micro-batch a of update `step`; a rank may get none. Counts over ranks are
  /// those of either side by itself.
  void fill(std::int64_t step, int micro_batch, int rank, int ranks, HostPairBatch& batch) const;

 private:
  /// The batch that update `step` takes.
  std::size_t batch_of(std::int64_t step) const;

  PairCorpus corpus_;
  std::uint64_t seed_;
  int micro_batches_;
  std::vector<std::uint32_t> order_;    ///< pairs, batch by batch
  std::vector<std::uint32_t> batches_;  ///< first of order_ in each, and past the last
  mutable std::int64_t epoch_ = -1;
  mutable std::vector<std::uint32_t> order_of_epoch_;
  mutable std::vector<std::uint64_t> tokens_before_;  ///< each pair of a batch, both sides
};

/// Held-out pairs, each once, those of like length together.
class EvalPairs {
 public:
  /// `batch_tokens`: most tokens of either side that a rank takes at once; a longer pair is taken
  /// alone. Pairs with an empty side or one of more than `max_length` tokens, end included, are
  /// left out. InputError when nothing is left.
  EvalPairs(PairCorpus corpus, int max_length, std::int64_t batch_tokens, int ranks = 1);

  std::int64_t pairs() const { return static_cast<std::int64_t>(order_.size()); }
  std::int64_t left_out() const { return corpus_.size() - pairs(); }
  std::int64_t tokens() const { return tokens_; }  ///< of both sides, ends included
  std::int64_t scored() const { return scored_; }  ///< of the target side, ends included
  /// The same on every rank; a rank may have no tokens in the last ones.
  int batches() const { return (static_cast<int>(batches_.size()) - 2 + ranks_) / ranks_; }
  void fill(int batch, int rank, HostPairBatch& out) const;

 private:
  PairCorpus corpus_;
  int ranks_;
  std::int64_t tokens_ = 0, scored_ = 0;
  std::vector<std::uint32_t> order_;    ///< pairs, batch by batch
  std::vector<std::uint32_t> batches_;  ///< first of order_ in each, and past the last
};

/// Pairs [first, first + count) of `order` as a batch, `first_index` being the global index of the
/// first. Grows vectors only.
void fill_pairs(const PairCorpus& corpus, std::span<const std::uint32_t> order,
                std::int64_t first_index, HostPairBatch& batch);

}  // namespace kokomoe
