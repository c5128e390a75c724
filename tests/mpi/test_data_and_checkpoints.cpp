// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/config.hpp"
#include "shared_folder.hpp"

#ifdef KOKOMOE_HAVE_HDF5

#include "kokomoe/core/error.hpp"
#include "kokomoe/data/batches.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "support/catch.hpp"

#include <memory>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

std::unique_ptr<ParameterStore<float>> make_store(std::uint64_t seed, std::size_t width) {
  auto store = std::make_unique<ParameterStore<float>>();
  ParameterSpec spec;
  spec.name = "weight";
  spec.shape = {7, width};
  spec.initializer = Initializer::normal(1);
  store->add(spec);
  store->allocate(ExecutionSpace(), seed);
  return store;
}

float first_value(const ParameterStore<float>& store) {
  return Kokkos::create_mirror_view_and_copy(
      Kokkos::HostSpace(), store.buffer(ParameterStore<float>::Group::replicated).value)(0);
}

}  // namespace

TEST_CASE("every rank loads what the root saved", "[checkpoint]") {
  const Communicator& ranks = communicator();
  const SharedFolder folder;
  auto store = make_store(1, 3);
  CheckpointMeta meta;
  meta.step = 5;
  meta.counters["tokens"] = 12;
  save_checkpoint(folder / "c", *store, meta, ranks, true, 2);
  auto other = make_store(2, 3);
  const CheckpointMeta found = load_checkpoint(folder / "c/step_5", *other, ranks);
  CHECK(found.step == 5);
  CHECK(found.counters.at("tokens") == 12);
  CHECK(first_value(*other) == first_value(*store));

  // Errors are everyone's: nobody hangs, and types stay.
  auto wide = make_store(1, 4);
  CHECK_THAT(message_of<InputError>([&] { load_checkpoint(folder / "c/step_5", *wide, ranks); }),
             contains("has shape (7, 3)"));
  CHECK_THROWS_AS(load_checkpoint(folder / "c/step_6", *other, ranks), InputError);
  if (ranks.is_root()) write_text(folder / "file", "");
  CHECK_THAT(
      message_of<Error>([&] { save_checkpoint(folder / "file", *store, meta, ranks, true, 2); }),
      contains("cannot save checkpoint"));
}

TEST_CASE("ranks share a corpus and split its batches", "[data]") {
  const Communicator& ranks = communicator();
  const SharedFolder folder;
  if (ranks.is_root()) {
    std::string text;
    for (int i = 0; i < 500; ++i) text += "line " + std::to_string(i * i) + "\n";
    write_text(folder / "a.txt", text);
  }
  const auto tokenizer = make_tokenizer({}, ranks);
  const Corpus corpus = Corpus::open({folder / "a.txt"}, *tokenizer, folder / "cache", ranks);
  CHECK_FALSE(corpus.reused());
  CHECK(Corpus::open({folder / "a.txt"}, *tokenizer, folder / "cache", ranks).reused());
  CHECK_THROWS_AS(Corpus::open({folder / "b.txt"}, *tokenizer, folder / "cache", ranks),
                  InputError);

  const LmBatches batches(corpus, 3, 7 * 16, 16, 2);
  HostBatch mine, all;
  std::int64_t tokens = 0;
  for (int a = 0; a < 2; ++a) {
    batches.fill(9, a, ranks.rank(), ranks.size(), mine);
    batches.fill(9, a, 0, 1, all);
    std::vector<std::int64_t> sums = {mine.tokens, 0};
    for (int i = 0; i < mine.tokens; ++i)
      sums[1] +=
          mine.ids[static_cast<std::size_t>(i)] * (1 + mine.position[static_cast<std::size_t>(i)]);
    ranks.all_reduce_sum(sums.data(), sums.size());
    std::int64_t expected = 0;
    for (int i = 0; i < all.tokens; ++i)
      expected +=
          all.ids[static_cast<std::size_t>(i)] * (1 + all.position[static_cast<std::size_t>(i)]);
    CHECK(sums[0] == all.tokens);
    CHECK(sums[0] == mine.global_tokens);
    CHECK(sums[1] == expected);
    tokens += mine.global_tokens;
  }
  CHECK(tokens == mine.global_scored);

  const EvalWindows windows(corpus, 32, 0, 96, ranks.size());
  std::int64_t scored = 0, global = 0;
  for (int b = 0; b < windows.batches(); ++b) {
    windows.fill(b, ranks.rank(), mine);
    scored += mine.scored;
    global += mine.global_scored;
  }
  ranks.all_reduce_sum(&scored, 1);
  CHECK(scored == windows.scored());
  CHECK(global == windows.scored());
}

#endif
