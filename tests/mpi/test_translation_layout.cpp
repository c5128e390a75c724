// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/config.hpp"
#include "support/communicator.hpp"

#ifdef KOKOMOE_HAVE_HDF5

#include "support/catch.hpp"
#include "support/host_arrays.hpp"
#include "support/tiny_pairs.hpp"

#include <cmath>
#include <vector>

using namespace kokomoe;
using namespace kokomoe::test;

TEST_CASE("ranks together train the translation model that one trains", "[mpi][translation]") {
  const TinyPairs pairs;
  const std::vector<std::string> overrides = {"moe/router=switch",         "moe/every=1",
                                              "train/accumulate=2",        "model/dropout=0.1",
                                              "train/label_smoothing=0.1", "moe/z_loss=0.001"};
  for (const int expert_ranks : {1, communicator().size()}) {
    std::vector<std::string> all = overrides;
    all.push_back("parallel/expert_ranks=" + std::to_string(expert_ranks));
    const auto one = pairs.make<double>(overrides);
    const auto together = pairs.make<double>(all, communicator());
    for (std::int64_t step = 0; step < 4; ++step) {
      const UpdateReport& expected = one->update(step);
      const UpdateReport& report = together->update(step);
      INFO("step " << step << ", experts over " << expert_ranks);
      CHECK(report.tokens == expected.tokens);
      CHECK(std::abs(report.task_loss - expected.task_loss) < 1e-11 * expected.task_loss);
      CHECK(std::abs(report.aux_loss - expected.aux_loss) < 1e-11 * expected.aux_loss);
      CHECK(std::abs(report.grad_norm - expected.grad_norm) < 1e-9 * expected.grad_norm);
      CHECK(report.flops == expected.flops);
      REQUIRE(report.load.size() == 4);
      for (std::size_t l = 0; l < 4; ++l) CHECK(report.load[l].counts == expected.load[l].counts);
    }
    const Evaluation expected = one->evaluate_heldout(), report = together->evaluate_heldout();
    CHECK(std::abs(report.loss - expected.loss) < 1e-10 * expected.loss);
    CHECK(report.scored == expected.scored);
  }
}

#endif
