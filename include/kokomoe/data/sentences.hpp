// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/batches.hpp"
#include "kokomoe/data/masking.hpp"
#include "kokomoe/data/tokenizer.hpp"
#include "kokomoe/parallel/communicator.hpp"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kokomoe {

/// Columns of a table of sentences: a row a line, fields between tabs, quotes being nothing
/// special, as GLUE's files are (Wang et al. 2019).
struct SentenceFormat {
  std::string name;
  bool header = true;  ///< the first line names the columns; else they are called "1", "2", ...
  std::string first, second;        ///< columns of sentences; no second one: ""
  std::string label;                ///< "" = rows have none
  std::vector<std::string> labels;  ///< classes in order; empty: the label is a number
  /// Rows without all columns, or with an empty sentence, are known to be there.
  bool leaves_out_broken_rows = false;
};

/// GLUE's nine tasks: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli.
const std::vector<SentenceFormat>& glue_formats();

/// The same without labels, as GLUE's test.tsv are: CoLA's has a header there, and every row
/// counts, even one with an empty sentence.
SentenceFormat without_labels(SentenceFormat format);

/// A table's rows as text.
struct SentenceTable {
  std::vector<std::string> first, second;  ///< second: empty where the format has none
  std::vector<int> labels;                 ///< or, where they are numbers,
  std::vector<double> numbers;
  std::int64_t left_out = 0;  ///< rows without all columns, or with an empty sentence
};

/// Adds the rows of `text`, which `name` stands for in messages. A byte order mark and carriage
/// returns at the ends of lines are dropped. InputError "NAME:LINE: error: ..." for a missing
/// column, a row with too few, a label that is none of the format's, an empty sentence beside a
/// label, and text that is not UTF-8 if `utf8`.
void read_sentences(std::string_view text, const std::string& name, const SentenceFormat& format,
                    bool utf8, SentenceTable& table);

/// The rows of all `files`, which only the root reads. Collective. InputError names the file, also
/// where there are no rows.
SentenceTable read_tables(const std::vector<std::string>& files, const SentenceFormat& format,
                          bool utf8, const Communicator& communicator);

/// make_tokenizer where the training files are tables: SentencePiece is trained on their sentences,
/// not on labels, numbers and names of columns. Collective.
std::shared_ptr<const Tokenizer> make_sentence_tokenizer(const TokenizerOptions& options,
                                                         const SentenceFormat& format,
                                                         const Communicator& communicator,
                                                         std::vector<std::string>* notes = nullptr);

/// A table of sentences, or pairs of them, as tokens.
class SentenceCorpus {
 public:
  /// Of what read_tables reads. Collective.
  static SentenceCorpus open(const std::vector<std::string>& files, const SentenceFormat& format,
                             const Tokenizer& tokenizer, const Communicator& communicator);
  SentenceCorpus(const SentenceTable& table, const Tokenizer& tokenizer);

  std::int64_t size() const { return static_cast<std::int64_t>(starts_.size() - 1) / 2; }
  /// Tokens of row i's sentences; the second is empty where there is none.
  std::span<const int> first(std::int64_t i) const { return part(2 * i); }
  std::span<const int> second(std::int64_t i) const { return part(2 * i + 1); }
  /// Of all rows; the one or the other is empty, or both.
  const std::vector<int>& labels() const { return labels_; }
  const std::vector<double>& numbers() const { return numbers_; }
  bool pairs() const { return pairs_; }
  std::int64_t left_out() const { return left_out_; }
  std::uint64_t key() const { return key_; }  ///< XXH3 of tokens and labels

 private:
  std::span<const int> part(std::int64_t i) const {
    const auto at = static_cast<std::size_t>(i);
    return {ids_.data() + starts_[at], starts_[at + 1] - starts_[at]};
  }

  std::vector<int> ids_;
  std::vector<std::size_t> starts_;  ///< of each row's first and second, and past the last
  std::vector<int> labels_;
  std::vector<double> numbers_;
  bool pairs_ = false;
  std::int64_t left_out_ = 0;
  std::uint64_t key_ = 0;
};

/// One rank's part of a micro-batch of sentences: sequence b is
///   first a separator     or     first a separator b separator
/// with segments 0 up to the first separator and 1 after it.
struct HostSentenceBatch {
  HostBatch tokens;                ///< without targets; its scored counts are of sentences
  std::vector<int> segments;       ///< (T)
  std::vector<int> labels;         ///< (B), or empty
  std::vector<double> numbers;     ///< (B), or empty
  std::vector<std::int64_t> rows;  ///< (B) which row of the corpus each is
};

/// How many tokens of a and of b stay where `room` tokens are left for both: the longer one, b
/// of equal ones, loses its last token until they fit (Devlin et al. 2018).
void truncate_pair(std::size_t& a, std::size_t& b, std::size_t room);

/// Training batches of sentences, a function of (seed, step) alone: each epoch takes all rows in an
/// order of its own, `sentences` in an update, and leaves out what is less than an update at its
/// end.
class SentenceBatches {
 public:
  /// `corpus` must outlive it. InputError when there are no rows, when an update has fewer
  /// sentences than micro-batches, or when `max_length` holds no word.
  SentenceBatches(const SentenceCorpus& corpus, const SpecialTokens& special, std::uint64_t seed,
                  int sentences, int max_length, int micro_batches = 1);

  std::int64_t updates_of_epoch() const;
  int sentences() const { return sentences_; }  ///< of an update; no more than there are rows
  /// Rank r's part of micro-batch a; a rank may get none.
  void fill(std::int64_t step, int micro_batch, int rank, int ranks,
            HostSentenceBatch& batch) const;

 private:
  const SentenceCorpus* corpus_;
  SpecialTokens special_;
  std::uint64_t seed_;
  int sentences_;
  int max_length_;
  int micro_batches_;
  mutable std::int64_t epoch_ = -1;
  mutable std::vector<std::uint64_t> key_;
  mutable std::vector<std::uint32_t> order_;
};

/// All rows of a corpus, each once, in order.
class EvalSentences {
 public:
  /// `corpus` must outlive it. `batch_tokens`: most tokens that a rank takes at once, or one
  /// sentence.
  EvalSentences(const SentenceCorpus& corpus, const SpecialTokens& special, int max_length,
                std::int64_t batch_tokens, int ranks = 1);

  std::int64_t tokens() const { return tokens_; }
  /// The same on every rank; a rank may have none in the last ones.
  int batches() const { return (static_cast<int>(batches_.size()) - 2 + ranks_) / ranks_; }
  void fill(int batch, int rank, HostSentenceBatch& out) const;

 private:
  const SentenceCorpus* corpus_;
  SpecialTokens special_;
  int max_length_;
  int ranks_;
  std::int64_t tokens_ = 0;
  std::vector<std::uint32_t> order_;    ///< 0, 1, 2, ...
  std::vector<std::uint32_t> batches_;  ///< first row of each, and past the last
};

/// Makes windows of a text into what an encoder is trained on: the first token of each sequence
/// becomes `first`, the last one the separator and, in half of those of eight tokens and more, a
/// token between that is drawn by (seed, step, sequence) too, with segment 1 behind it. Lengths and
/// counts stay. `segments` (T).
void mark_windows(const SpecialTokens& special, std::uint64_t seed, std::int64_t step,
                  HostBatch& batch, std::vector<int>& segments);

}  // namespace kokomoe
