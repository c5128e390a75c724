// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/data/masking.hpp"
#include "support/catch.hpp"
#include "support/host_arrays.hpp"

#include <algorithm>
#include <cmath>
#include <map>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

constexpr int mask = 3, begin_id = 1, end_id = 2;

struct Sequence {
  std::uint32_t index;
  std::vector<int> ids;
};

/// Sequences that begin and end with ids that are never hidden.
std::vector<Sequence> some_sequences() {
  std::vector<Sequence> all;
  Draw draw(9);
  for (const int length : {2, 3, 9, 12, 50, 100, 0, 1, 33}) {
    Sequence sequence{static_cast<std::uint32_t>(3 * all.size() + 2), {}};
    for (int i = 0; i < length; ++i)
      sequence.ids.push_back(4 + static_cast<int>(20 * std::abs(draw())));
    if (length > 0) sequence.ids.front() = begin_id;
    if (length > 0) sequence.ids.back() = end_id;
    all.push_back(sequence);
  }
  all[3].ids[5] = mask;  // a mask in the text is none of ours
  return all;
}

HostBatch pack(const std::vector<Sequence>& sequences) {
  HostBatch batch;
  batch.sequence_offsets = {0};
  for (const Sequence& sequence : sequences) {
    for (std::size_t i = 0; i < sequence.ids.size(); ++i) {
      batch.ids.push_back(sequence.ids[i]);
      batch.position.push_back(static_cast<int>(i));
      batch.sequence_index.push_back(sequence.index);
    }
    batch.sequence_offsets.push_back(static_cast<int>(batch.ids.size()));
  }
  batch.tokens = static_cast<int>(batch.ids.size());
  batch.sequences = static_cast<int>(sequences.size());
  return batch;
}

/// Hidden positions of each sequence.
std::map<std::uint32_t, std::vector<int>> hidden(const HostBatch& batch, const MaskedBatch& out) {
  std::map<std::uint32_t, std::vector<int>> result;
  for (const int row : out.rows)
    result[batch.sequence_index[static_cast<std::size_t>(row)]].push_back(
        batch.position[static_cast<std::size_t>(row)]);
  return result;
}

}  // namespace

TEST_CASE("each sequence hides its share, at least one token, and nothing that may not be",
          "[data][masking]") {
  const TokenMasking masking(0.15, mask, {begin_id, end_id}, 11);
  const std::vector<Sequence> all = some_sequences();
  const HostBatch batch = pack(all);
  MaskedBatch out;
  masking.hide(4, batch, out);
  // Tokens that may be hidden: 0, 1, 7, 9 (of 10, one being a mask), 48, 98, 0, 0, 31.
  const std::vector<int> expected = {0, 1, 1, 1, 7, 15, 0, 0, 5};
  for (std::size_t s = 0; s < all.size(); ++s)
    CHECK(std::count_if(out.rows.begin(), out.rows.end(), [&](int row) {
            return row >= batch.sequence_offsets[s] && row < batch.sequence_offsets[s + 1];
          }) == expected[s]);
  CHECK(std::is_sorted(out.rows.begin(), out.rows.end()));
  CHECK(std::adjacent_find(out.rows.begin(), out.rows.end()) == out.rows.end());
  REQUIRE(out.ids.size() == batch.ids.size());
  REQUIRE(out.targets.size() == batch.ids.size());
  for (std::size_t r = 0; r < batch.ids.size(); ++r) {
    if (std::find(out.rows.begin(), out.rows.end(), static_cast<int>(r)) == out.rows.end()) {
      CHECK(out.ids[r] == batch.ids[r]);
      CHECK(out.targets[r] == -1);
    } else {
      CHECK(batch.ids[r] > mask);
      CHECK(out.ids[r] == mask);
      CHECK(out.targets[r] == batch.ids[r]);
    }
  }
  // 0.15 n, rounded; 10 and 30 are halves.
  const std::map<int, int> shares = {{0, 0}, {1, 1}, {9, 1}, {11, 2}, {20, 3}, {510, 77}};
  for (const auto& [tokens, share] : shares) CHECK(masking.count(tokens) == share);
}

TEST_CASE("what a sequence hides depends on seed, step and the sequence, not on its batch",
          "[data][masking]") {
  const std::vector<Sequence> all = some_sequences();
  const TokenMasking masking(0.15, mask, {begin_id, end_id}, 11);
  MaskedBatch out;
  const auto of = [&](const TokenMasking& by, std::int64_t step,
                      const std::vector<Sequence>& sequences) {
    const HostBatch batch = pack(sequences);
    by.hide(step, batch, out);
    return hidden(batch, out);
  };
  const auto whole = of(masking, 4, all);
  CHECK(of(masking, 4, all) == whole);
  CHECK(of(masking, 5, all) != whole);
  CHECK(of(TokenMasking(0.15, mask, {begin_id, end_id}, 12), 4, all) != whole);
  // Cut into parts of any size, and in any order.
  for (const std::size_t parts : {2u, 3u, 9u}) {
    std::map<std::uint32_t, std::vector<int>> together;
    for (std::size_t p = parts; p-- > 0;)
      together.merge(of(masking, 4,
                        {all.begin() + static_cast<std::ptrdiff_t>(p * all.size() / parts),
                         all.begin() + static_cast<std::ptrdiff_t>((p + 1) * all.size() / parts)}));
    CHECK(together == whole);
  }
}

TEST_CASE("every token is hidden as often as every other", "[data][masking]") {
  const TokenMasking masking(0.15, mask, {}, 5);
  const HostBatch batch = pack({{7, std::vector<int>(20, 10)}});
  std::vector<double> counts(20, 0.0);
  constexpr int steps = 20000;
  MaskedBatch out;
  for (int step = 0; step < steps; ++step) {
    masking.hide(step, batch, out);
    REQUIRE(out.rows.size() == 3);
    for (const int row : out.rows) counts[static_cast<std::size_t>(row)] += 1;
  }
  const double expected = 0.15 * steps, deviation = std::sqrt(expected * 0.85);
  for (const double count : counts) CHECK(std::abs(count - expected) < 4.5 * deviation);
}

TEST_CASE("a masked batch on the device is the one on the host", "[data][masking]") {
  const TokenMasking masking(0.15, mask, {begin_id, end_id}, 11);
  const HostBatch batch = pack(some_sequences());
  MaskedBatch out;
  masking.hide(1, batch, out);
  DeviceMaskedBatch buffers;
  const ExecutionSpace space;
  const MaskedTokens tokens = to_device(space, out, buffers);
  space.fence();
  CHECK(on_host(tokens.ids) == out.ids);
  CHECK(on_host(tokens.targets) == out.targets);
  CHECK(on_host(tokens.rows) == out.rows);
}

TEST_CASE("masking refuses what does not fit", "[data][masking]") {
  for (const double rate : {0.0, -0.1, 1.01, std::nan("")})
    CHECK_THAT(message_of<InputError>([&] { TokenMasking(rate, 3, {}, 1); }),
               contains("not in (0, 1]"));
  CHECK_THAT(message_of<InputError>([] { TokenMasking(0.1, -1, {}, 1); }), contains("-1"));
  CHECK_THAT(message_of<InputError>([] { TokenMasking(0.1, 3, {4, -2}, 1); }), contains("-2"));
}
