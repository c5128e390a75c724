// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/config.hpp"
#include "support/communicator.hpp"

#ifdef KOKOMOE_HAVE_HDF5

#include "support/catch.hpp"
#include "support/tiny_training.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// The same deck on this rank alone and on all ranks together.
template <class T>
struct Pair {
  Pair(const TinyTraining& tiny, const std::vector<std::string>& overrides, int expert_ranks)
      : one(tiny.make<T>(overrides)) {
    std::vector<std::string> all = overrides;
    all.push_back("parallel/expert_ranks=" + std::to_string(expert_ranks));
    together = std::make_unique<LanguageModel<T>>(tiny.config(all), communicator(),
                                                  tiny.corpus("train.txt"));
  }

  /// Where this rank's tokens of the last micro-batch begin among all.
  std::size_t first_token() const {
    std::int64_t own = together->saved().features.extent(0);
    std::vector<std::int64_t> counts(static_cast<std::size_t>(communicator().size()));
    communicator().all_gather(&own, sizeof own, counts.data());
    std::int64_t sum = 0;
    for (int r = 0; r < communicator().rank(); ++r) sum += counts[static_cast<std::size_t>(r)];
    return static_cast<std::size_t>(sum);
  }

  std::unique_ptr<LanguageModel<T>> one, together;
};

/// How the choices of one layer differ between one rank and all.
struct Difference {
  std::int64_t choices = 0, different = 0;
  double margin = 0;  ///< largest, between the two experts, among different choices
};

template <class T>
Difference compare_choices(const Pair<T>& pair) {
  Difference result;
  const std::size_t first = pair.first_token();
  for (std::size_t b = 0; b < pair.one->saved().blocks.size(); ++b) {
    const auto& all = pair.one->saved().blocks[b].moe;
    const auto& own = pair.together->saved().blocks[b].moe;
    const auto k = static_cast<std::size_t>(own.routing.slots_per_token);
    const auto experts = static_cast<std::size_t>(own.routing.experts);
    const std::vector<int> expected = on_host(all.routing.expert), got = on_host(own.routing.expert);
    const std::vector<T> logits = on_host(all.logits);
    for (std::size_t n = 0; n < got.size(); ++n) {
      const std::size_t token = first + n / k;
      const int a = expected[first * k + n], c = got[n];
      ++result.choices;
      if (a == c) continue;
      ++result.different;
      const auto logit = [&](int e) {
        return static_cast<double>(logits[token * experts + static_cast<std::size_t>(e)]);
      };
      result.margin = std::max(result.margin, std::abs(logit(a) - logit(c)));
    }
  }
  return result;
}

std::vector<int> divisors(int n) {
  std::vector<int> result;
  for (int p = 1; p <= n; ++p)
    if (n % p == 0) result.push_back(p);
  return result;
}

}  // namespace

TEST_CASE("a model trains alike on any layout, in double", "[layout]") {
  const TinyTraining tiny;
  for (const std::string router : {"sparsemixer", "top_k", "deepseek_v3", "expert_choice"}) {
    for (const int ranks : divisors(communicator().size())) {
      INFO(router << " on " << communicator().size() << " ranks, " << ranks << " share the experts");
      std::vector<std::string> settings{"moe/router=" + router, "train/accumulate=2",
                                        "model/dropout=0.1", "moe/shared_experts=1"};
      if (router == "expert_choice") settings.push_back("moe/allow_future=true");
      const Pair<double> pair(tiny, settings, ranks);
      for (std::int64_t step = 0; step < 4; ++step) {
        const UpdateReport a = pair.one->update(step), b = pair.together->update(step);
        if (step == 0) CHECK(compare_choices(pair).different == 0);
        CHECK(std::abs(a.loss - b.loss) < 1e-12 * a.loss);
        CHECK(std::abs(a.aux_loss - b.aux_loss) < 1e-12 * a.loss);
        CHECK(std::abs(a.grad_norm - b.grad_norm) < 1e-11 * a.grad_norm);
      }
      const EvalWindows alone(tiny.corpus("heldout.txt"), 16, 8, 128, 1);
      const EvalWindows shared(tiny.corpus("heldout.txt"), 16, 8, 128 / communicator().size(),
                               communicator().size());
      const double expected = pair.one->evaluate(alone).loss;
      CHECK(std::abs(pair.together->evaluate(shared).loss - expected) < 1e-11 * expected);
    }
  }
}

TEST_CASE("choices in float differ only where logits are equal to rounding", "[layout]") {
  const TinyTraining tiny;
  for (const std::string router : {"switch", "top_k"}) {
    const Pair<float> pair(tiny,
                           {"moe/router=" + router, router == "top_k" ? "moe/k=2" : "moe/k=1",
                            "train/batch_tokens=1024",
                            "optimizer/learning_rate=1e-3", "moe/experts=5"},
                           communicator().size());
    Difference all;
    double drift = 0;
    for (std::int64_t step = 0; step < 50; ++step) {
      const UpdateReport a = pair.one->update(step), b = pair.together->update(step);
      const Difference d = compare_choices(pair);
      all.choices += d.choices;
      all.different += d.different;
      all.margin = std::max(all.margin, d.margin);
      drift = std::max(drift, std::abs(a.loss - b.loss) / a.loss);
    }
    std::int64_t sums[2] = {all.choices, all.different};
    communicator().all_reduce_sum(sums, 2);
    if (communicator().is_root())
      WARN(router << ": " << sums[1] << " of " << sums[0] << " choices differ, margin "
                  << all.margin << ", losses by " << drift);
    CHECK(sums[0] >= 100000);
    CHECK(static_cast<double>(sums[1]) <= 1e-5 * static_cast<double>(sums[0]) + 1);
    CHECK(all.margin < 1e-5);
    CHECK(drift < 1e-3);
  }
}

#endif
