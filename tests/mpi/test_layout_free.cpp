// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/config.hpp"
#include "support/communicator.hpp"

#ifdef KOKOMOE_HAVE_HDF5

#include "support/catch.hpp"
#include "support/tiny_training.hpp"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

template <class T>
std::vector<T> slice(const Vector<T>& flat, std::size_t offset, std::size_t size) {
  return on_host(Vector<T>(flat.data() + offset, size));
}

/// Elements that have other bits on all ranks together than on one, over values and moments. With
/// sharded experts, of those that this rank holds.
template <class T>
std::size_t different_bits(const ParameterStore<T>& one, const ParameterStore<T>& together) {
  std::size_t wrong = 0;
  const auto count = [&](const std::vector<T>& a, const std::vector<T>& b) {
    for (std::size_t i = 0; i < b.size(); ++i) wrong += std::memcmp(&a[i], &b[i], sizeof(T)) != 0;
  };
  for (std::size_t i = 0; i < one.entries().size(); ++i) {
    const auto& all = one.entries()[i];
    const auto& own = together.entries()[i];
    std::size_t skip = 0;
    if (all.spec.expert)
      skip = all.size / all.spec.shape[0] *
             static_cast<std::size_t>(together.experts(static_cast<int>(all.spec.shape[0])).begin);
    const auto &a = one.buffer(all.group), &b = together.buffer(own.group);
    count(slice(a.value, all.offset + skip, own.size), slice(b.value, own.offset, own.size));
    if (all.frozen || all.spec.state) continue;
    count(slice(a.moment1, all.offset + skip, own.size), slice(b.moment1, own.offset, own.size));
    count(slice(a.moment2, all.offset + skip, own.size), slice(b.moment2, own.offset, own.size));
  }
  return wrong;
}

template <class T>
void check_bits(const TinyTraining& tiny, std::vector<std::string> settings, int expert_ranks,
                bool expected_equal = true) {
  CAPTURE(settings, expert_ranks, communicator().size());
  const auto one = tiny.make<T>(settings);
  settings.push_back("parallel/expert_ranks=" + std::to_string(expert_ranks));
  LanguageModel<T> together(tiny.config(settings), communicator(), tiny.corpus("train.txt"));
  std::size_t wrong = 0;
  for (std::int64_t step = 0; step < 4; ++step) {
    const UpdateReport a = one->update(step), b = together.update(step);
    wrong += a.loss != b.loss || a.task_loss != b.task_loss || a.aux_loss != b.aux_loss;
    wrong += a.grad_norm != b.grad_norm;
    for (std::size_t l = 0; l < a.load.size(); ++l)
      wrong += a.load[l].balance != b.load[l].balance || a.load[l].counts != b.load[l].counts ||
               a.load[l].z_square != b.load[l].z_square;
  }
  wrong += different_bits<T>(one->store(), together.store());
  const EvalWindows alone(tiny.corpus("heldout.txt"), 16, 8, 128, 1);
  const EvalWindows shared(tiny.corpus("heldout.txt"), 16, 8, 128 / communicator().size(),
                           communicator().size());
  wrong += one->evaluate(alone).loss != together.evaluate(shared).loss;
  std::int64_t anywhere = static_cast<std::int64_t>(wrong);
  communicator().all_reduce_sum(&anywhere, 1);
  CHECK((anywhere == 0) == expected_equal);
}

const std::vector<std::string> rich{"parallel/deterministic=layout",
                                    "moe/router=top_k",
                                    "moe/k=2",
                                    "model/bias=true",
                                    "model/norm=layer_norm",
                                    "model/positions=learned",
                                    "model/dropout=0.1",
                                    "model/tied=false",
                                    "moe/shared_experts=1",
                                    "moe/output_gain=true",
                                    "moe/z_loss=0.01",
                                    "moe/balance_scope=sequence",
                                    "train/accumulate=2",
                                    "moe/experts=5"};

}  // namespace

TEMPLATE_TEST_CASE("a layout-free run has the same bits on any ranks", "[layout_free]", float,
                   double) {
  const TinyTraining tiny;
  const int ranks = communicator().size();
  for (int share = 1; share <= ranks; ++share) {
    if (ranks % share != 0) continue;
    check_bits<TestType>(tiny, {"parallel/deterministic=layout", "moe/z_loss=0.01"}, share);
    check_bits<TestType>(tiny, {"parallel/deterministic=layout", "parallel/exchange_chunks=2"},
                         share);
    check_bits<TestType>(tiny, rich, share);
  }
  check_bits<TestType>(tiny, {"parallel/deterministic=layout", "moe/every=0", "model/bias=true"},
                       1);
}

TEST_CASE("a run that is not layout-free is not", "[layout_free]") {
  // The test above would pass on anything if this one did not fail.
  if (communicator().size() > 1) check_bits<float>(TinyTraining(), {"moe/z_loss=0.01"}, 1, false);
}

#endif
