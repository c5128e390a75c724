// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/data/sentences.hpp"

#include "data/drawn_order.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/philox.hpp"

#include <algorithm>

namespace kokomoe {

namespace {

/// Lanes of the draws of purpose `batch`; pairs have the first two.
constexpr std::uint32_t epoch_lane = 3, window_lane = 4;

/// Tokens of a row's sentences that stay.
struct Lengths {
  std::size_t a = 0, b = 0;
  bool pair = false;
  std::size_t all() const { return a + b + (pair ? 3 : 2); }
};

Lengths lengths_of(const SentenceCorpus& corpus, std::int64_t row, int max_length) {
  Lengths n{corpus.first(row).size(), corpus.second(row).size(), corpus.pairs()};
  truncate_pair(n.a, n.b, static_cast<std::size_t>(max_length) - (n.pair ? 3 : 2));
  return n;
}

void require_room(const SentenceCorpus& corpus, int max_length) {
  if (corpus.size() == 0) throw InputError("the table of sentences has no rows");
  const int least = corpus.pairs() ? 5 : 3;
  if (max_length < least)
    throw InputError("sequences of " + std::to_string(max_length) + " tokens hold no word of " +
                     (corpus.pairs() ? "either sentence" : "a sentence") + ": " +
                     std::to_string(least) + " at least");
}

/// Rows `rows` of the corpus as a batch, the first one being sequence `first_index` of the update.
void fill_rows(const SentenceCorpus& corpus, const SpecialTokens& special, int max_length,
               std::span<const std::uint32_t> rows, std::int64_t first_index,
               HostSentenceBatch& out) {
  HostBatch& batch = out.tokens;
  batch.ids.clear();
  batch.position.clear();
  batch.sequence_index.clear();
  batch.sequence_offsets.assign(1, 0);
  batch.max_length = 0;
  out.segments.clear();
  out.labels.clear();
  out.numbers.clear();
  out.rows.clear();
  for (const std::uint32_t row : rows) {
    const Lengths n = lengths_of(corpus, row, max_length);
    const auto put = [&](std::span<const int> ids, int segment) {
      batch.ids.insert(batch.ids.end(), ids.begin(), ids.end());
      batch.ids.push_back(special.separator);
      out.segments.resize(batch.ids.size(), segment);
    };
    batch.ids.push_back(special.first);
    put(corpus.first(row).first(n.a), 0);
    if (n.pair) put(corpus.second(row).first(n.b), 1);
    for (std::size_t i = 0; i < n.all(); ++i) {
      batch.position.push_back(static_cast<int>(i));
      batch.sequence_index.push_back(
          static_cast<std::uint32_t>(first_index + static_cast<std::int64_t>(out.rows.size())));
    }
    batch.sequence_offsets.push_back(static_cast<int>(batch.ids.size()));
    batch.max_length = std::max(batch.max_length, static_cast<int>(n.all()));
    out.rows.push_back(row);
    if (!corpus.labels().empty()) out.labels.push_back(corpus.labels()[row]);
    if (!corpus.numbers().empty()) out.numbers.push_back(corpus.numbers()[row]);
  }
  batch.tokens = static_cast<int>(batch.ids.size());
  batch.sequences = static_cast<int>(rows.size());
  batch.targets.assign(batch.ids.size(), -1);
  batch.scored = batch.sequences;
}

std::int64_t count_tokens(const SentenceCorpus& corpus, std::span<const std::uint32_t> rows,
                          int max_length) {
  std::int64_t tokens = 0;
  for (const std::uint32_t row : rows)
    tokens += static_cast<std::int64_t>(lengths_of(corpus, row, max_length).all());
  return tokens;
}

}  // namespace

void truncate_pair(std::size_t& a, std::size_t& b, std::size_t room) {
  if (a + b <= room) return;
  if (room < 2 * std::min(a, b)) {
    a = (room + 1) / 2;
    b = room - a;
  } else if (a > b) {
    a = room - b;
  } else {
    b = room - a;
  }
}

SentenceBatches::SentenceBatches(const SentenceCorpus& corpus, const SpecialTokens& special,
                                 std::uint64_t seed, int sentences, int max_length,
                                 int micro_batches)
    : corpus_(&corpus),
      special_(special),
      seed_(seed),
      max_length_(max_length),
      micro_batches_(micro_batches) {
  require_room(corpus, max_length);
  sentences_ = static_cast<int>(std::min<std::int64_t>(sentences, corpus.size()));
  if (micro_batches < 1 || micro_batches > sentences_)
    throw InputError("updates of " + std::to_string(sentences_) + " sentences cannot be cut into " +
                     std::to_string(micro_batches) + " micro-batches");
}

std::int64_t SentenceBatches::updates_of_epoch() const {
  return corpus_->size() / sentences_;
}

void SentenceBatches::fill(std::int64_t step, int micro_batch, int rank, int ranks,
                           HostSentenceBatch& batch) const {
  const std::int64_t epoch = step / updates_of_epoch();
  if (epoch != epoch_) {
    detail::draw_order(seed_, epoch_lane, static_cast<std::uint64_t>(epoch),
                       static_cast<std::size_t>(corpus_->size()), key_, order_);
    epoch_ = epoch;
  }
  const std::span<const std::uint32_t> all(order_.data() + step % updates_of_epoch() * sentences_,
                                           static_cast<std::size_t>(sentences_));
  const auto cut = [&](std::int64_t part) {
    return static_cast<std::size_t>(part * sentences_ / (micro_batches_ * ranks));
  };
  const std::int64_t part = static_cast<std::int64_t>(micro_batch) * ranks;
  const std::size_t begin = cut(part + rank), end = cut(part + rank + 1);
  fill_rows(*corpus_, special_, max_length_, all.subspan(begin, end - begin),
            static_cast<std::int64_t>(begin), batch);
  batch.tokens.global_tokens =
      count_tokens(*corpus_, all.subspan(cut(part), cut(part + ranks) - cut(part)), max_length_);
  batch.tokens.update_tokens = count_tokens(*corpus_, all, max_length_);
  batch.tokens.global_scored = sentences_;
}

EvalSentences::EvalSentences(const SentenceCorpus& corpus, const SpecialTokens& special,
                             int max_length, std::int64_t batch_tokens, int ranks)
    : corpus_(&corpus), special_(special), max_length_(max_length), ranks_(ranks) {
  require_room(corpus, max_length);
  std::int64_t tokens = 0;
  for (std::int64_t row = 0; row < corpus.size(); ++row) {
    const auto length = static_cast<std::int64_t>(lengths_of(corpus, row, max_length).all());
    if (row == 0 || tokens + length > batch_tokens) {
      batches_.push_back(static_cast<std::uint32_t>(row));
      tokens = 0;
    }
    tokens += length;
    tokens_ += length;
    order_.push_back(static_cast<std::uint32_t>(row));
  }
  batches_.push_back(static_cast<std::uint32_t>(order_.size()));
}

void EvalSentences::fill(int batch, int rank, HostSentenceBatch& out) const {
  const auto begin = [&](int r) {
    return batches_[std::min(static_cast<std::size_t>(batch * ranks_ + r), batches_.size() - 1)];
  };
  const auto rows = [&](std::uint32_t first, std::uint32_t last) {
    return std::span<const std::uint32_t>(order_.data() + first, last - first);
  };
  fill_rows(*corpus_, special_, max_length_, rows(begin(rank), begin(rank + 1)), begin(rank), out);
  const auto all = rows(begin(0), begin(ranks_));
  out.tokens.global_tokens = count_tokens(*corpus_, all, max_length_);
  out.tokens.update_tokens = tokens_;
  out.tokens.global_scored = static_cast<std::int64_t>(all.size());
}

void mark_windows(const SpecialTokens& special, std::uint64_t seed, std::int64_t step,
                  HostBatch& batch, std::vector<int>& segments) {
  const PhiloxStream stream(seed, Purpose::batch, static_cast<std::uint64_t>(step), window_lane, 0);
  segments.assign(batch.ids.size(), 0);
  for (int s = 0; s < batch.sequences; ++s) {
    const auto begin =
        static_cast<std::size_t>(batch.sequence_offsets[static_cast<std::size_t>(s)]);
    const auto end =
        static_cast<std::size_t>(batch.sequence_offsets[static_cast<std::size_t>(s) + 1]);
    if (begin == end) continue;
    batch.ids[begin] = special.first;
    batch.ids[end - 1] = special.separator;
    const PhiloxBlock draw = stream.block(batch.sequence_index[begin], 0, 0);
    if (end - begin < 8 || draw.word[0] % 2 == 1) continue;
    // At least two tokens on either side.
    const std::size_t places = end - begin - 6;
    const std::size_t middle =
        begin + 3 +
        static_cast<std::size_t>((static_cast<std::uint64_t>(draw.word[1]) * places) >> 32);
    batch.ids[middle] = special.separator;
    std::fill(segments.begin() + static_cast<std::ptrdiff_t>(middle) + 1,
              segments.begin() + static_cast<std::ptrdiff_t>(end), 1);
  }
}

}  // namespace kokomoe
