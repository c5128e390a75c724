// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "malloc_counter.hpp"
#include "recorder.hpp"
#include "support/catch.hpp"
#include "support/tiny_training.hpp"

#include <algorithm>
#include <cstdlib>
#include <initializer_list>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

bool begins(const std::string& text, const std::string& part) {
  return text.compare(0, part.size(), part) == 0;
}

/// The labels that begin with nothing of the list.
template <class Labels>
std::vector<std::string> strangers(const Labels& labels,
                                   std::initializer_list<const char*> allowed) {
  std::vector<std::string> found;
  for (const std::string& label : labels)
    if (std::none_of(allowed.begin(), allowed.end(),
                     [&](const char* part) { return begins(label, part); }))
      found.push_back(label);
  return found;
}

/// What is looked at; micro-batches, MoE layers and blocks of each.
struct Study {
  std::vector<std::string> overrides;
  long micro_batches, sparse, blocks;
};

const std::vector<Study>& studies() {
  static const std::vector<Study> all{
      {{"model/dropout=0.1", "model/attention_dropout=0.1"}, 1, 2, 2},
      {{"moe/router=switch", "moe/jitter=0.1", "train/accumulate=2", "model/bias=true"}, 2, 2, 2},
      {{"moe/router=top_k", "moe/k=2", "moe/z_loss=0.01", "model/norm=layer_norm"}, 1, 2, 2},
      {{"moe/router=dense_mixture", "model/positions=learned", "moe/every=2"}, 1, 1, 2},
      {{"moe/every=0", "model/tied=false", "train/accumulate=2"}, 2, 0, 2}};
  return all;
}

}  // namespace

TEST_CASE("every label of a training run is ours by name, or a known library's", "[step_cost]") {
  const TinyTraining tiny;
  for (const Study& study : studies()) {
    INFO(study.overrides[0]);
    Recorder recorder;
    const auto model = tiny.make<float>(study.overrides);
    for (int step = 0; step < 3; ++step) model->update(step);
    model->evaluate(EvalWindows(tiny.corpus("heldout.txt"), 16, 0, 128));
    model->generate({1, 2, 3}, 3, 1, 0, 1);
    const std::vector<std::string> none;
    // Kokkos' own: how Views begin, copies that run as kernels, fences.
    CHECK(strangers(recorder.kernels, {"kokomoe::", "Kokkos::View", "Kokkos::Impl"}) == none);
    CHECK(strangers(recorder.allocations, {"kokomoe::", "Kokkos::"}) == none);
    CHECK(strangers(recorder.regions, {"kokomoe::", "KokkosBlas::"}) == none);
    CHECK(strangers(recorder.fences, {"kokomoe::", "Kokkos::", "KokkosBlas::", "HostSpace"}) ==
          none);
    CHECK(recorder.kernels.count("kokomoe::nn::attention_backward") > 0);
    CHECK(recorder.allocations.count("kokomoe::train::saved") > 0);
    CHECK(recorder.regions.count("kokomoe::train::update") == 3);
  }
}

TEST_CASE("updates allocate no Kokkos memory after the first three", "[step_cost]") {
  const TinyTraining tiny;
  for (const Study& study : studies()) {
    INFO(study.overrides[0]);
    const auto model = tiny.make<float>(study.overrides);
    for (int step = 0; step < 3; ++step) model->update(step);
    const int growths = model->arena_growths();
    const std::size_t bytes = model->peak_bytes();
    const Recorder recorder;
    for (int step = 3; step < 8; ++step) model->update(step);
    CHECK(recorder.allocations.empty());
    CHECK(model->arena_growths() == growths);
    CHECK(model->peak_bytes() == bytes);
    CHECK_FALSE(recorder.kernels.empty());  // the callbacks were there
  }
}

TEST_CASE("an update copies to the host offsets, statistics and norm, and nothing else",
          "[step_cost]") {
  const TinyTraining tiny;
  for (const Study& study : studies()) {
    INFO(study.overrides[0]);
    const auto model = tiny.make<float>(study.overrides);
    for (int step = 0; step < 3; ++step) model->update(step);
    Recorder recorder;
    for (int step = 3; step < 8; ++step) {
      recorder.clear();
      model->update(step);
      long offsets = 0, statistics = 0, norms = 0, others = 0, fills = 0;
      for (const Recorder::Copy& copy : recorder.copies) {
        if (copy.fill())
          ++fills;
        else if (begins(copy.to, "kokomoe::moe::dispatch::host_offsets"))
          ++offsets;
        else if (begins(copy.from, "kokomoe::train::statistics"))
          ++statistics;
        else if (copy.bytes == 2 * sizeof(double))
          ++norms;
        else
          ++others;
      }
      // To the host: E + 1 integers of each MoE layer, the losses, two sums of squares.
      CHECK(offsets == study.micro_batches * study.sparse);
      CHECK(statistics == 1);
      CHECK(norms == 1);
      // The host waits for each of these, and for nothing else.
      long waits = 0;
      for (const std::string& label : recorder.fences) waits += begins(label, "kokomoe::") ? 1 : 0;
      CHECK(waits == offsets + 2);
      CHECK(strangers(recorder.fences, {"kokomoe::", "Kokkos::Tools::"}).empty());
      // On the device: two residuals of each block, the counts of each MoE layer.
      CHECK(others == study.micro_batches * (2 * study.blocks + study.sparse));
      CHECK(fills == 0);
    }
  }
}

TEST_CASE("updates ask malloc for nothing after the first three, GEMMs apart", "[step_cost]") {
  if (!malloc_counts_available()) {
    WARN("malloc cannot be counted in this build");
    return;
  }
  const TinyTraining tiny;
  for (const Study& study : studies()) {
    INFO(study.overrides[0]);
    const auto model = tiny.make<float>(study.overrides);
    for (int step = 0; step < 3; ++step) model->update(step);
    start_malloc_counts();
    for (int step = 3; step < 8; ++step) model->update(step);
    const MallocCounts counts = stop_malloc_counts();
    // KokkosBlas makes a label for each call, OpenBLAS a work list for each of several threads.
    INFO("GEMM: " << counts.gemm);
    CHECK(counts.large == 0);
    CHECK(counts.small == 0);
  }
}

TEST_CASE("the counter counts", "[step_cost]") {
  if (!malloc_counts_available()) return;
  start_malloc_counts();
  void* volatile small = std::malloc(1023);
  std::free(small);
  std::vector<char>* volatile large = new std::vector<char>(5000);
  delete large;
  const MallocCounts counts = stop_malloc_counts();
  CHECK(counts.small == 2);
  CHECK(counts.large == 1);
  CHECK(counts.gemm == 0);
}
