// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/data/pairs.hpp"

#include "data/drawn_order.hpp"
#include "kokomoe/core/error.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace kokomoe {

namespace {

/// Lanes of the draws of purpose `batch`.
constexpr std::uint32_t composition_lane = 1, epoch_lane = 2;

/// Lengths that go into one bucket differ by less than this part of them.
constexpr int bucket_part = 8;

int bucket_of(int length) {
  int bucket = 0;
  for (int limit = 8; limit < length; limit += 1 + limit / bucket_part) ++bucket;
  return bucket;
}

/// The lines of all files, and where in them those of each file end.
struct Lines {
  std::vector<PairCorpus::Line> all;
  std::vector<std::size_t> file_ends;

  std::size_t of_file(std::size_t file) const {
    return file_ends[file] - (file == 0 ? 0 : file_ends[file - 1]);
  }
};

Lines lines_of(const Corpus& corpus, int newline) {
  Lines lines;
  std::size_t begin = 0;
  const auto end_line = [&](std::size_t end) {
    lines.all.push_back({begin, static_cast<int>(end - begin)});
  };
  for (std::size_t i = 0; i < corpus.size(); ++i) {
    const int id = corpus[i];
    if (id == newline) {
      end_line(i);
      begin = i + 1;
    } else if (id == corpus.beginning_of_text()) {
      if (i > begin) end_line(i);  // the file before has no newline at its end
      if (i > 0) lines.file_ends.push_back(lines.all.size());
      begin = i + 1;
    }
  }
  if (corpus.size() > begin) end_line(corpus.size());
  lines.file_ends.push_back(lines.all.size());
  return lines;
}

/// Where to cut `sizes` into `parts` contiguous runs of nearly equal sums.
std::size_t cut_at(std::span<const std::uint64_t> before, int part, int parts) {
  const std::uint64_t all = before.back();
  const std::uint64_t mark =
      all * static_cast<std::uint64_t>(part) / static_cast<std::uint64_t>(parts);
  return static_cast<std::size_t>(std::lower_bound(before.begin(), before.end(), mark) -
                                  before.begin());
}

/// "2 files", "1 file".
std::string files_of(const std::vector<std::string>& names) {
  return std::to_string(names.size()) + (names.size() == 1 ? " file" : " files");
}

/// Lines of one side, one behind the other; `begins`: with an end of sentence first and targets one
/// ahead, else with one last.
template <class Length, class Copy>
void fill_side(std::span<const std::uint32_t> order, std::int64_t first_index, int end, bool begins,
               const Length& length, const Copy& copy, HostBatch& batch) {
  std::size_t tokens = 0;
  batch.max_length = 0;
  for (const std::uint32_t pair : order) {
    const int n = length(pair) + 1;
    tokens += static_cast<std::size_t>(n);
    batch.max_length = std::max(batch.max_length, n);
  }
  batch.ids.resize(tokens);
  batch.targets.resize(tokens);
  batch.position.resize(tokens);
  batch.sequence_index.resize(tokens);
  batch.sequence_offsets.resize(order.size() + 1);
  batch.sequence_offsets[0] = 0;
  batch.tokens = static_cast<int>(tokens);
  batch.sequences = static_cast<int>(order.size());
  batch.scored = begins ? batch.tokens : 0;
  std::size_t at = 0;
  for (std::size_t b = 0; b < order.size(); ++b) {
    const auto n = static_cast<std::size_t>(length(order[b])) + 1;
    int* const ids = batch.ids.data() + at;
    int* const targets = batch.targets.data() + at;
    copy(order[b], begins ? ids + 1 : ids);
    ids[begins ? 0 : n - 1] = end;
    for (std::size_t i = 0; i < n; ++i) {
      targets[i] = !begins ? -1 : i + 1 < n ? ids[i + 1] : end;
      batch.position[at + i] = static_cast<int>(i);
      batch.sequence_index[at + i] =
          static_cast<std::uint32_t>(first_index + static_cast<std::int64_t>(b));
    }
    at += n;
    batch.sequence_offsets[b + 1] = static_cast<int>(at);
  }
}

/// Tokens with their ends.
struct SideTokens {
  std::int64_t source = 0, target = 0;
};

SideTokens count_tokens(const PairCorpus& corpus, std::span<const std::uint32_t> pairs) {
  SideTokens tokens;
  for (const std::uint32_t pair : pairs) {
    tokens.source += corpus.source_length(pair) + 1;
    tokens.target += corpus.target_length(pair) + 1;
  }
  return tokens;
}

/// Those of `pairs` that are of use, by length and else as they stand, cut into batches of at most
/// `batch_tokens` of either side (or one pair).
void group_pairs(const PairCorpus& corpus, const std::vector<std::uint32_t>& pairs, int max_length,
                 std::int64_t batch_tokens, std::vector<std::uint32_t>& order,
                 std::vector<std::uint32_t>& batches) {
  const auto longest = [&](std::uint32_t pair) {
    return std::max(corpus.source_length(pair), corpus.target_length(pair)) + 1;
  };
  for (const std::uint32_t pair : pairs)
    if (corpus.source_length(pair) > 0 && corpus.target_length(pair) > 0 &&
        longest(pair) <= max_length)
      order.push_back(pair);
  if (order.empty())
    throw InputError("of " + std::to_string(corpus.size()) +
                     " pairs none has a word on both sides and at most " +
                     std::to_string(max_length) + " tokens on either");
  std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    return bucket_of(longest(a)) < bucket_of(longest(b));
  });
  SideTokens batch;
  batches.push_back(0);
  for (std::size_t i = 0; i < order.size(); ++i) {
    const SideTokens pair = count_tokens(corpus, {&order[i], 1});
    if (i > batches.back() &&
        std::max(batch.source + pair.source, batch.target + pair.target) > batch_tokens) {
      batches.push_back(static_cast<std::uint32_t>(i));
      batch = {};
    }
    batch.source += pair.source;
    batch.target += pair.target;
  }
  batches.push_back(static_cast<std::uint32_t>(order.size()));
}

}  // namespace

PairCorpus PairCorpus::open(const std::vector<std::string>& source_files,
                            const std::vector<std::string>& target_files,
                            const Tokenizer& tokenizer, const std::string& cache_folder,
                            const Communicator& communicator) {
  const std::vector<int> newline = tokenizer.encode("\n");
  if (newline.size() != 1)
    throw InputError("the tokenizer has no token of its own for the end of a line");
  if (source_files.size() != target_files.size())
    throw InputError(files_of(source_files) + " of sources, " + files_of(target_files) +
                     " of translations: each wants one of its own");
  const auto open_side = [&](const std::vector<std::string>& files) {
    return Corpus::open(files, tokenizer, cache_folder, communicator, TextForm::lines);
  };
  Corpus source = open_side(source_files), target = open_side(target_files);
  Lines source_lines = lines_of(source, newline[0]), target_lines = lines_of(target, newline[0]);
  // File by file: two that are cut elsewhere would pair every sentence behind the cut wrongly.
  for (std::size_t f = 0; f < source_files.size(); ++f)
    if (source_lines.of_file(f) != target_lines.of_file(f))
      throw InputError("\"" + source_files[f] + "\" has " +
                       std::to_string(source_lines.of_file(f)) + " lines, \"" + target_files[f] +
                       "\" has " + std::to_string(target_lines.of_file(f)));
  return PairCorpus(std::move(source), std::move(target), std::move(source_lines.all),
                    std::move(target_lines.all));
}

void fill_pairs(const PairCorpus& corpus, std::span<const std::uint32_t> order,
                std::int64_t first_index, HostPairBatch& batch) {
  const int end = corpus.end_of_sentence();
  fill_side(
      order, first_index, end, false,
      [&](std::uint32_t pair) { return corpus.source_length(pair); },
      [&](std::uint32_t pair, int* out) { corpus.copy_source(pair, out); }, batch.source);
  fill_side(
      order, first_index, end, true, [&](std::uint32_t pair) { return corpus.target_length(pair); },
      [&](std::uint32_t pair, int* out) { corpus.copy_target(pair, out); }, batch.target);
}

PairBatches::PairBatches(PairCorpus corpus, std::uint64_t seed, std::int64_t batch_tokens,
                         int max_length, int micro_batches)
    : corpus_(std::move(corpus)), seed_(seed), micro_batches_(micro_batches) {
  if (max_length < 2)
    throw InputError("sentences of at most " + std::to_string(max_length) +
                     " tokens hold no word and an end");
  if (batch_tokens < max_length)
    throw InputError("updates of " + std::to_string(batch_tokens) +
                     " tokens do not hold a sentence of " + std::to_string(max_length));
  if (micro_batches < 1 || micro_batches > batch_tokens)
    throw InputError("updates of " + std::to_string(batch_tokens) + " tokens cannot be cut into " +
                     std::to_string(micro_batches) + " micro-batches");
  // A draw for each pair, then by length: what is alike in length stands in random order.
  std::vector<std::uint64_t> key;
  std::vector<std::uint32_t> drawn;
  detail::draw_order(seed, composition_lane, 0, static_cast<std::size_t>(corpus_.size()), key,
                     drawn);
  group_pairs(corpus_, drawn, max_length, batch_tokens, order_, batches_);
}

EvalPairs::EvalPairs(PairCorpus corpus, int max_length, std::int64_t batch_tokens, int ranks)
    : corpus_(std::move(corpus)), ranks_(ranks) {
  std::vector<std::uint32_t> all(static_cast<std::size_t>(corpus_.size()));
  std::iota(all.begin(), all.end(), 0u);
  group_pairs(corpus_, all, max_length, batch_tokens, order_, batches_);
  for (const std::uint32_t pair : order_) {
    scored_ += corpus_.target_length(pair) + 1;
    tokens_ += corpus_.source_length(pair) + corpus_.target_length(pair) + 2;
  }
}

void EvalPairs::fill(int batch, int rank, HostPairBatch& out) const {
  const auto group = [&](int r) {
    const std::size_t last = batches_.size() - 1;
    const std::size_t number = std::min(static_cast<std::size_t>(batch * ranks_ + r), last);
    const std::size_t next = std::min(number + 1, last);
    return std::span<const std::uint32_t>(order_.data() + batches_[number],
                                          batches_[next] - batches_[number]);
  };
  fill_pairs(
      corpus_, group(rank),
      batches_[std::min(static_cast<std::size_t>(batch * ranks_ + rank), batches_.size() - 1)],
      out);
  std::int64_t source = 0, target = 0;
  for (int r = 0; r < ranks_; ++r) {
    const SideTokens tokens = count_tokens(corpus_, group(r));
    source += tokens.source;
    target += tokens.target;
  }
  out.source.global_tokens = out.source.update_tokens = source;
  out.target.global_tokens = out.target.update_tokens = target;
  out.source.global_scored = 0;
  out.target.global_scored = target;
}

std::size_t PairBatches::batch_of(std::int64_t step) const {
  const std::int64_t epoch = step / updates_of_epoch();
  if (epoch != epoch_) {
    std::vector<std::uint64_t> key;
    detail::draw_order(seed_, epoch_lane, static_cast<std::uint64_t>(epoch),
                       static_cast<std::size_t>(updates_of_epoch()), key, order_of_epoch_);
    epoch_ = epoch;
  }
  return order_of_epoch_[static_cast<std::size_t>(step % updates_of_epoch())];
}

void PairBatches::fill(std::int64_t step, int micro_batch, int rank, int ranks,
                       HostPairBatch& batch) const {
  const std::size_t number = batch_of(step);
  const std::span<const std::uint32_t> all(order_.data() + batches_[number],
                                           batches_[number + 1] - batches_[number]);
  std::vector<std::uint64_t>& before = tokens_before_;
  before.assign(all.size() + 1, 0);
  std::int64_t source = 0, target = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    source += corpus_.source_length(all[i]) + 1;
    target += corpus_.target_length(all[i]) + 1;
    before[i + 1] = static_cast<std::uint64_t>(source + target);
  }
  const int part = micro_batch * ranks + rank, parts = micro_batches_ * ranks;
  const auto cut = [&](int at) { return cut_at(before, at, parts); };
  const std::size_t begin = cut(part), end = cut(part + 1);
  fill_pairs(corpus_, all.subspan(begin, end - begin), static_cast<std::int64_t>(begin), batch);
  const std::size_t first = cut(micro_batch * ranks), last = cut((micro_batch + 1) * ranks);
  const SideTokens micro = count_tokens(corpus_, all.subspan(first, last - first));
  batch.source.global_tokens = micro.source;
  batch.target.global_tokens = micro.target;
  batch.source.update_tokens = source;
  batch.target.update_tokens = target;
  batch.source.global_scored = 0;
  batch.target.global_scored = target;
}

}  // namespace kokomoe
