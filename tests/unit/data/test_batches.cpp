// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/data/batches.hpp"
#include "kokomoe/data/device_batch.hpp"
#include "support/catch.hpp"
#include "support/temporary_folder.hpp"

#include <algorithm>
#include <map>
#include <set>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// `sizes` bytes of text in as many files.
Corpus make_corpus(const TemporaryFolder& folder, const std::vector<int>& sizes) {
  std::vector<std::string> files;
  unsigned state = 1;
  for (std::size_t f = 0; f < sizes.size(); ++f) {
    std::string text;
    for (int i = 0; i < sizes[f]; ++i) {
      state = state * 1664525u + 1013904223u;
      text += static_cast<char>('a' + (state >> 24) % 26);
    }
    files.push_back(folder / (std::to_string(f) + ".txt"));
    write_text(files.back(), text);
  }
  return Corpus::open(files, *make_tokenizer({}, Communicator()), folder / "cache", Communicator());
}

struct Sequence {
  std::vector<int> ids, targets;
  bool operator==(const Sequence&) const = default;
};

/// Sequences by global index, with everything else about the batch checked.
void collect(const HostBatch& batch, std::map<std::uint32_t, Sequence>& sequences) {
  REQUIRE(batch.sequence_offsets.size() == static_cast<std::size_t>(batch.sequences) + 1);
  REQUIRE(batch.sequence_offsets.front() == 0);
  REQUIRE(batch.sequence_offsets.back() == batch.tokens);
  for (const std::size_t size :
       {batch.ids.size(), batch.targets.size(), batch.position.size(), batch.sequence_index.size()})
    REQUIRE(size == static_cast<std::size_t>(batch.tokens));
  int longest = 0;
  for (int s = 0; s < batch.sequences; ++s) {
    const auto begin =
        static_cast<std::size_t>(batch.sequence_offsets[static_cast<std::size_t>(s)]);
    const auto end =
        static_cast<std::size_t>(batch.sequence_offsets[static_cast<std::size_t>(s) + 1]);
    longest = std::max(longest, static_cast<int>(end - begin));
    Sequence sequence;
    for (std::size_t i = begin; i < end; ++i) {
      CHECK(batch.position[i] == static_cast<int>(i - begin));
      CHECK(batch.sequence_index[i] == batch.sequence_index[begin]);
      sequence.ids.push_back(batch.ids[i]);
      sequence.targets.push_back(batch.targets[i]);
    }
    CHECK(sequences.emplace(batch.sequence_index[begin], sequence).second);
  }
  CHECK(batch.max_length == longest);
}

}  // namespace

TEST_CASE("training batches do not depend on micro-batches and ranks", "[batches]") {
  const TemporaryFolder folder;
  const Corpus corpus = make_corpus(folder, {5000, 3000});
  const int length = 16, total = 13;
  std::map<std::uint32_t, Sequence> expected;
  HostBatch batch;
  LmBatches(corpus, 5, total * length, length).fill(42, 0, 0, 1, batch);
  collect(batch, expected);
  REQUIRE(expected.size() == total);
  CHECK(batch.global_tokens == total * length);
  CHECK(batch.global_scored == total * length);
  CHECK(batch.scored == total * length);
  for (const auto& [index, sequence] : expected) {
    CHECK(index < total);
    for (int i = 0; i + 1 < length; ++i)
      CHECK(sequence.targets[static_cast<std::size_t>(i)] ==
            sequence.ids[static_cast<std::size_t>(i) + 1]);
  }
  for (const int micro_batches : {1, 2, 5, 13})
    for (const int ranks : {1, 2, 3, 4, 7}) {
      const LmBatches batches(corpus, 5, total * length, length, micro_batches);
      std::map<std::uint32_t, Sequence> found;
      std::int64_t tokens = 0;
      for (int a = 0; a < micro_batches; ++a) {
        std::int64_t micro_tokens = 0, global = 0;
        std::uint32_t next = 0;
        for (int r = 0; r < ranks; ++r) {
          batches.fill(42, a, r, ranks, batch);
          CHECK(batch.tokens <= batches.capacity(ranks));
          CHECK(batch.global_scored == total * length);
          if (batch.tokens > 0) {
            CHECK(batch.sequence_index[0] >= next);  // contiguous, in rank order
            next = batch.sequence_index.back() + 1;
          }
          micro_tokens += batch.tokens;
          global = batch.global_tokens;
          collect(batch, found);
        }
        CHECK(micro_tokens == global);
        tokens += global;
      }
      INFO(micro_batches << " micro-batches, " << ranks << " ranks");
      CHECK(tokens == total * length);
      CHECK(found == expected);
    }
}

TEST_CASE("training batches depend on seed and step alone", "[batches]") {
  const TemporaryFolder folder;
  const Corpus corpus = make_corpus(folder, {5000});
  const auto ids = [&](std::uint64_t seed, std::int64_t step) {
    HostBatch batch;
    LmBatches(corpus, seed, 64, 16).fill(step, 0, 0, 1, batch);
    return batch.ids;
  };
  CHECK(ids(1, 3) == ids(1, 3));
  CHECK(ids(1, 3) != ids(1, 4));
  CHECK(ids(1, 3) != ids(2, 3));
  CHECK(ids(1, 3) != ids((std::uint64_t(1) << 32) + 1, 3));
}

TEST_CASE("every place of the text is drawn about equally often", "[batches]") {
  const TemporaryFolder folder;
  const Corpus corpus = make_corpus(folder, {19});  // 20 tokens
  const int length = 4, places = 16;
  const LmBatches batches(corpus, 1, 400 * length, length);
  std::map<std::vector<int>, int> counts;
  HostBatch batch;
  for (int step = 0; step < 40; ++step) {
    batches.fill(step, 0, 0, 1, batch);
    std::map<std::uint32_t, Sequence> sequences;
    collect(batch, sequences);
    for (const auto& [index, sequence] : sequences) ++counts[sequence.ids];
  }
  REQUIRE(counts.size() == places);
  double chi_squared = 0;
  const double expected = 16000.0 / places;
  for (const auto& [ids, count] : counts)
    chi_squared += (count - expected) * (count - expected) / expected;
  CHECK(chi_squared < 37.7);  // 15 degrees of freedom, p = 0.001
  // The last token is a target, the first is an input.
  std::set<int> starts;
  for (const auto& [ids, count] : counts) starts.insert(ids[0]);
  CHECK(starts.count(256) == 1);
}

TEST_CASE("batches are filled without new memory", "[batches]") {
  const TemporaryFolder folder;
  const Corpus corpus = make_corpus(folder, {5000});
  const LmBatches batches(corpus, 1, 13 * 16, 16, 2);
  HostBatch batch;
  batches.fill(0, 1, 0, 1, batch);
  const int* const ids = batch.ids.data();
  for (int step = 0; step < 5; ++step)
    for (int a = 0; a < 2; ++a) {
      batches.fill(step, a, 0, 1, batch);
      CHECK(batch.ids.data() == ids);
    }
}

TEST_CASE("impossible batches are input errors", "[batches]") {
  const TemporaryFolder folder;
  const Corpus corpus = make_corpus(folder, {20});
  const auto error = [&](std::int64_t tokens, int length, int micro) {
    return message_of<InputError>([&] { LmBatches(corpus, 1, tokens, length, micro); });
  };
  CHECK_THAT(error(100, 16, 1), contains("batches of 100 tokens are not whole sequences of 16"));
  CHECK_THAT(error(0, 16, 1), contains("not whole sequences"));
  CHECK_THAT(error(64, 16, 5), contains("4 sequences cannot be cut into 5 micro-batches"));
  CHECK_THAT(error(64, 32, 1), contains("the text has 21 tokens: too few"));
  CHECK_THAT(error(64, 0, 1), contains("sequence length of 0"));
  CHECK_NOTHROW(LmBatches(corpus, 1, 20, 20));
}

TEST_CASE("evaluation scores every token of text once, with context", "[batches]") {
  const TemporaryFolder folder;
  const Corpus corpus = make_corpus(folder, {100, 57});  // 159 tokens, two beginnings of text
  std::vector<int> stream(corpus.size());
  corpus.copy(0, corpus.size(), stream.data());
  for (const int length : {1, 7, 16, 64, 158, 500})
    for (const int stride : {0, 1, 5, 7})
      for (const int ranks : {1, 2, 3})
        for (const int budget : {1, 40, 1000}) {
          if (stride > length) continue;
          const int used_stride = std::min(stride == 0 ? std::max(1, length / 2) : stride, length);
          const EvalWindows windows(corpus, length, stride, budget, ranks);
          std::map<std::size_t, int> scored;  // place in the stream: times
          std::int64_t global = 0, count = 0;
          HostBatch batch;
          for (int b = 0; b < windows.batches(); ++b) {
            std::int64_t tokens = 0, in_batch = 0;
            for (int r = 0; r < ranks; ++r) {
              windows.fill(b, r, batch);
              CHECK(batch.tokens <= windows.capacity());
              std::map<std::uint32_t, Sequence> sequences;
              collect(batch, sequences);
              tokens += batch.tokens;
              in_batch += batch.scored;
              for (const auto& [index, sequence] : sequences) {
                // Where the window lies follows from its index.
                const std::size_t size = sequence.ids.size();
                const std::size_t begin = std::min<std::size_t>(
                    index * static_cast<std::size_t>(used_stride), stream.size() - 1 - size);
                for (std::size_t i = 0; i < size; ++i) {
                  CHECK(sequence.ids[i] == stream[begin + i]);
                  if (sequence.targets[i] < 0) continue;
                  CHECK(sequence.targets[i] == stream[begin + i + 1]);
                  ++scored[begin + i + 1];
                  // Context: the window's part to the left, or all there is.
                  CHECK(i + 1 >= std::min<std::size_t>(
                                     begin + i + 1, size -
                                                        static_cast<std::size_t>(std::min(
                                                            used_stride, static_cast<int>(size))) +
                                                        1));
                }
              }
            }
            CHECK(tokens == batch.global_tokens);
            CHECK(in_batch == batch.global_scored);
            global += batch.global_scored;
            count += in_batch;
          }
          INFO(length << " " << stride << " " << ranks << " " << budget);
          CHECK(count == windows.scored());
          CHECK(global == 157);
          CHECK(windows.text_bytes() == 157);
          for (std::size_t i = 0; i < stream.size(); ++i)
            CHECK(scored[i] == (stream[i] == 256 ? 0 : 1));
        }
}

TEST_CASE("evaluation can be cut short", "[batches]") {
  const TemporaryFolder folder;
  const Corpus corpus = make_corpus(folder, {100, 57});
  const EvalWindows windows(corpus, 16, 0, 64, 1, 40);
  CHECK(windows.scored() == 40);
  CHECK(windows.text_bytes() == 40);
  std::int64_t scored = 0;
  HostBatch batch;
  for (int b = 0; b < windows.batches(); ++b) {
    windows.fill(b, 0, batch);
    scored += batch.scored;
  }
  CHECK(scored == 40);
  CHECK(EvalWindows(corpus, 16, 0, 64, 1, 10000).scored() == 157);
  CHECK_THROWS_AS(EvalWindows(corpus, 16, 17, 64), InputError);
  CHECK_THROWS_AS(EvalWindows(corpus, 0, 0, 64), InputError);
}

TEST_CASE("a batch on the device holds what the host's does", "[batches]") {
  const TemporaryFolder folder;
  const Corpus corpus = make_corpus(folder, {5000});
  const LmBatches batches(corpus, 1, 13 * 16, 16, 2);
  HostBatch host;
  DeviceBatch device;
  const ExecutionSpace space;
  for (int step = 0; step < 3; ++step)
    for (int a = 0; a < 2; ++a) {
      batches.fill(step, a, 0, 1, host);
      const PackedTokens tokens = to_device(space, host, device);
      CHECK(tokens.tokens == host.tokens);
      CHECK(tokens.sequences == host.sequences);
      CHECK(tokens.max_length == 16);
      const auto same = [](const auto& view, const auto& expected) {
        const auto copy = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
        return copy.size() == expected.size() &&
               std::equal(expected.begin(), expected.end(), copy.data());
      };
      CHECK(same(tokens.ids, host.ids));
      CHECK(same(tokens.targets, host.targets));
      CHECK(same(tokens.sequence_offsets, host.sequence_offsets));
      CHECK(same(tokens.sequence_index, host.sequence_index));
      CHECK(same(tokens.position, host.position));
    }
  HostBatch empty;
  EvalWindows(corpus, 4000, 0, 1, 4).fill(0, 3, empty);
  CHECK(to_device(space, empty, device).tokens == empty.tokens);
}
