// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/data/pairs.hpp"
#include "support/catch.hpp"
#include "support/temporary_folder.hpp"

#include <algorithm>
#include <map>
#include <set>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

constexpr int end_token = 256;

PairCorpus open(const TemporaryFolder& folder, const std::vector<std::string>& sources,
                const std::vector<std::string>& targets) {
  const auto write = [&](const char* side, const std::vector<std::string>& texts) {
    std::vector<std::string> files;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      files.push_back(folder / (side + std::to_string(i)));
      write_text(files.back(), texts[i]);
    }
    return files;
  };
  return PairCorpus::open(write("source", sources), write("target", targets),
                          *make_tokenizer({}, Communicator()), folder / "cache", Communicator());
}

std::string source_of(const PairCorpus& corpus, std::int64_t pair) {
  std::vector<int> ids(static_cast<std::size_t>(corpus.source_length(pair)));
  corpus.copy_source(pair, ids.data());
  return {ids.begin(), ids.end()};
}

/// n pairs; the target of "abc" is "ABC!".
PairCorpus many(const TemporaryFolder& folder, int n) {
  std::string source, target;
  unsigned state = 1;
  for (int i = 0; i < n; ++i) {
    state = state * 1664525u + 1013904223u;
    const int length = 1 + static_cast<int>((state >> 20) % 40);
    for (int j = 0; j < length; ++j) {
      state = state * 1664525u + 1013904223u;
      source += static_cast<char>('a' + (state >> 24) % 26);
      target += static_cast<char>(source.back() - 'a' + 'A');
    }
    source += '\n';
    target += "!\n";
  }
  return open(folder, {source}, {target});
}

/// Text of each sequence by its index, with everything else about the batch checked.
void collect(const HostPairBatch& batch, std::map<std::uint32_t, std::string>& texts) {
  REQUIRE(batch.source.sequences == batch.target.sequences);
  for (int b = 0; b < batch.source.sequences; ++b) {
    const auto text = [&](const HostBatch& side, bool target) {
      const int begin = side.sequence_offsets[static_cast<std::size_t>(b)],
                end = side.sequence_offsets[static_cast<std::size_t>(b) + 1];
      CHECK(end - begin <= side.max_length);
      std::string result;
      for (int i = begin; i < end; ++i) {
        const auto at = static_cast<std::size_t>(i);
        CHECK(side.position[at] == i - begin);
        CHECK(side.sequence_index[at] ==
              batch.source.sequence_index[static_cast<std::size_t>(
                  batch.source.sequence_offsets[static_cast<std::size_t>(b)])]);
        const bool is_end = side.ids[at] == end_token;
        CHECK(is_end == (i == (target ? begin : end - 1)));
        if (!is_end) result += static_cast<char>(side.ids[at]);
        const int next = i + 1 < end ? side.ids[at + 1] : end_token;
        CHECK(side.targets[at] == (target ? next : -1));
      }
      return result;
    };
    const std::string source = text(batch.source, false), target = text(batch.target, true);
    std::string expected = source + "!";
    std::transform(source.begin(), source.end(), expected.begin(),
                   [](char c) { return static_cast<char>(c - 'a' + 'A'); });
    CHECK(target == expected);
    const auto index = batch.source.sequence_index[static_cast<std::size_t>(
        batch.source.sequence_offsets[static_cast<std::size_t>(b)])];
    CHECK(texts.emplace(index, source).second);
  }
  CHECK(batch.target.scored == batch.target.tokens);
  CHECK(batch.source.scored == 0);
}

}  // namespace

TEST_CASE("pairs are lines, with and without a newline at the end of a file", "[pairs]") {
  const TemporaryFolder folder;
  const PairCorpus corpus =
      open(folder, {"one\n\nthree", "four\n"}, {"eins\nzwei\ndrei\n", "vier"});
  REQUIRE(corpus.size() == 4);
  CHECK(source_of(corpus, 0) == "one");
  CHECK(source_of(corpus, 1).empty());
  CHECK(source_of(corpus, 2) == "three");
  CHECK(source_of(corpus, 3) == "four");
  CHECK(corpus.target_length(3) == 4);
  const PairCorpus lines = open(folder, {"\n\n"}, {"a\n\n"});
  CHECK(lines.size() == 2);
}

TEST_CASE("files of different length are refused with both names", "[pairs]") {
  const TemporaryFolder folder;
  const auto refusal = [&](const std::vector<std::string>& sources,
                           const std::vector<std::string>& targets) {
    return message_of<InputError>([&] { open(folder, sources, targets); });
  };
  CHECK_THAT(refusal({"a\nb\n"}, {"c\nd\ne"}),
             contains("source0\" has 2 lines") && contains("target0\" has 3"));
  // As many in all, cut at another place.
  CHECK_THAT(refusal({"a\nb\n", "c\n", "d\n"}, {"a\nb\n", "c\nd\n", "\xef\xbb\xbf"}),
             contains("source1\" has 1 lines") && contains("target1\" has 2"));
  CHECK_THAT(refusal({"a\nb\n"}, {"a\n", "b\n"}),
             contains("1 file of sources, 2 files of translations"));
}

TEST_CASE("line ends of other systems and byte order marks are no text", "[pairs]") {
  const std::string mark = "\xef\xbb\xbf";
  const TemporaryFolder folder, others;
  const PairCorpus plain =
      open(folder, {"one\n\nth\rree", "four\n"}, {"eins\nzwei\ndrei\n", "vier"});
  const PairCorpus other = open(others, {mark + "one\r\n\r\nth\rree\r", mark + "four\r\n"},
                                {"eins\r\nzwei\ndrei\r\n", mark + "vier"});
  REQUIRE(other.size() == plain.size());
  for (const auto& [a, b] :
       {std::pair(plain.source(), other.source()), std::pair(plain.target(), other.target())}) {
    REQUIRE(a.size() == b.size());
    CHECK(a.text_bytes() == b.text_bytes());
    for (std::size_t i = 0; i < a.size(); ++i) CHECK(a[i] == b[i]);
  }
  CHECK(source_of(other, 2) == "th\rree");
  // Not the cache of the same bytes as they are.
  const auto bytes = make_tokenizer({}, Communicator());
  const std::vector<std::string> file = {others / "source1"};
  const Corpus whole = Corpus::open(file, *bytes, others / "cache", Communicator());
  CHECK(whole.size() == 1 + 3 + 4 + 2);
  CHECK(Corpus::open(file, *bytes, others / "cache", Communicator(), TextForm::lines).size() == 6);
}

TEST_CASE("held-out pairs come once each, whatever the ranks", "[pairs]") {
  const TemporaryFolder folder;
  const PairCorpus corpus = many(folder, 200);
  std::multiset<std::string> all;
  for (std::int64_t i = 0; i < corpus.size(); ++i) all.insert(source_of(corpus, i));
  HostPairBatch batch;
  for (const int ranks : {1, 3}) {
    const EvalPairs pairs(corpus, 60, 100, ranks);
    std::multiset<std::string> seen;
    std::int64_t tokens = 0, scored = 0;
    for (int b = 0; b < pairs.batches(); ++b) {
      std::int64_t source = 0, target = 0;
      for (int r = 0; r < ranks; ++r) {
        pairs.fill(b, r, batch);
        std::map<std::uint32_t, std::string> part;
        collect(batch, part);
        for (const auto& [index, text] : part) seen.insert(text);
        CHECK(std::max(batch.source.tokens, batch.target.tokens) <= 100);
        source += batch.source.tokens;
        target += batch.target.tokens;
      }
      CHECK(source == batch.source.global_tokens);
      CHECK(target == batch.target.global_scored);
      tokens += source + target;
      scored += target;
    }
    CHECK(seen == all);
    CHECK(tokens == pairs.tokens());
    CHECK(scored == pairs.scored());
  }
  CHECK(EvalPairs(corpus, 10, 100).left_out() > 0);
}

TEST_CASE("an epoch has every pair once, whatever the ranks and micro-batches", "[pairs]") {
  const TemporaryFolder folder;
  const PairCorpus corpus = many(folder, 300);
  const auto epoch = [&](std::uint64_t seed, std::int64_t first, int micro_batches, int ranks) {
    const PairBatches batches(corpus, seed, 200, 60, micro_batches);
    std::vector<std::map<std::uint32_t, std::string>> updates;
    HostPairBatch batch;
    for (std::int64_t step = first; step < first + batches.updates_of_epoch(); ++step) {
      auto& update = updates.emplace_back();
      std::int64_t source = 0, target = 0;
      for (int a = 0; a < micro_batches; ++a) {
        const std::int64_t source_before = source, target_before = target;
        for (int r = 0; r < ranks; ++r) {
          batches.fill(step, a, r, ranks, batch);
          collect(batch, update);
          source += batch.source.tokens;
          target += batch.target.tokens;
        }
        CHECK(source - source_before == batch.source.global_tokens);
        CHECK(target - target_before == batch.target.global_tokens);
      }
      CHECK(source == batch.source.update_tokens);
      CHECK(target == batch.target.update_tokens);
      CHECK(target == batch.target.global_scored);
      CHECK(std::max(source, target) <= 200);
    }
    return updates;
  };
  const auto alone = epoch(5, 0, 1, 1);
  std::multiset<std::string> seen, all;
  for (const auto& update : alone)
    for (const auto& [index, text] : update) seen.insert(text);
  for (std::int64_t i = 0; i < corpus.size(); ++i) all.insert(source_of(corpus, i));
  CHECK(seen == all);
  CHECK(epoch(5, 0, 2, 3) == alone);
  CHECK(epoch(5, 0, 1, 4) == alone);
  const auto updates = static_cast<std::int64_t>(alone.size());
  const auto next = epoch(5, updates, 1, 1);
  CHECK(next != alone);  // the same batches in another order
  CHECK(std::set(next.begin(), next.end()) == std::set(alone.begin(), alone.end()));
  CHECK(epoch(6, 0, 1, 1) != alone);

  // Any update by itself, in any order: a function of the step.
  const PairBatches batches(corpus, 5, 200, 60);
  HostPairBatch batch;
  for (const std::int64_t step : {updates + 3, std::int64_t(2), 7 * updates, std::int64_t(0)}) {
    std::map<std::uint32_t, std::string> update;
    batches.fill(step, 0, 0, 1, batch);
    collect(batch, update);
    if (step < updates) CHECK(update == alone[static_cast<std::size_t>(step)]);
    if (step == updates + 3) CHECK(update == next[3]);
  }
}

TEST_CASE("pairs of a batch are of like length", "[pairs]") {
  const TemporaryFolder folder;
  const PairCorpus corpus = many(folder, 2000);
  const PairBatches batches(corpus, 1, 400, 60);
  HostPairBatch batch;
  std::int64_t padded = 0, tokens = 0;
  for (std::int64_t step = 0; step < batches.updates_of_epoch(); ++step) {
    batches.fill(step, 0, 0, 1, batch);
    padded += static_cast<std::int64_t>(batch.target.max_length) * batch.target.sequences;
    tokens += batch.target.tokens;
  }
  // In batches of any lengths it would be about 1.9.
  CHECK(static_cast<double>(padded) / static_cast<double>(tokens) < 1.15);
}

TEST_CASE("pairs that are empty or too long are left out and counted", "[pairs]") {
  const TemporaryFolder folder;
  const PairCorpus corpus = open(folder, {"aa\n\nbbbbbbbb\ncc\n"}, {"A\nB\nC\nDDDD\n"});
  const PairBatches batches(corpus, 1, 20, 6);
  CHECK(batches.pairs() == 2);
  CHECK(batches.left_out() == 2);
  CHECK_THAT(message_of<InputError>([&] { PairBatches(corpus, 1, 20, 2); }),
             contains("of 4 pairs none"));
  CHECK_THAT(message_of<InputError>([&] { PairBatches(corpus, 1, 5, 6); }),
             contains("do not hold a sentence of 6"));
  CHECK_THROWS_AS(PairBatches(corpus, 1, 20, 1), InputError);
  CHECK_THROWS_AS(PairBatches(corpus, 1, 20, 6, 0), InputError);
}
