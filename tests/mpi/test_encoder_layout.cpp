// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/config.hpp"
#include "support/communicator.hpp"

#ifdef KOKOMOE_HAVE_HDF5

#include "support/catch.hpp"
#include "support/host_arrays.hpp"
#include "support/tiny_sentences.hpp"

#include <cmath>
#include <string>
#include <vector>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// `make(overrides, communicator)` trains on all ranks what it trains on one.
template <class Make>
void check_ranks(const Make& make) {
  const Communicator alone;
  const std::vector<std::string> overrides = {"moe/router=switch", "moe/every=1",
                                              "train/accumulate=2", "model/dropout=0.1",
                                              "moe/z_loss=0.001"};
  for (const int expert_ranks : {1, communicator().size()}) {
    std::vector<std::string> all = overrides;
    all.push_back("parallel/expert_ranks=" + std::to_string(expert_ranks));
    const auto one = make(overrides, alone), together = make(all, communicator());
    for (std::int64_t step = 0; step < 3; ++step) {
      const UpdateReport& expected = one->update(step);
      const UpdateReport& report = together->update(step);
      INFO("step " << step << ", experts over " << expert_ranks);
      CHECK(report.tokens == expected.tokens);
      CHECK(std::abs(report.task_loss - expected.task_loss) < 1e-11 * expected.task_loss);
      CHECK(std::abs(report.aux_loss - expected.aux_loss) < 1e-11 * expected.aux_loss);
      CHECK(std::abs(report.grad_norm - expected.grad_norm) < 1e-9 * expected.grad_norm);
      REQUIRE(report.load.size() == 2);
      for (std::size_t l = 0; l < 2; ++l) CHECK(report.load[l].counts == expected.load[l].counts);
    }
    const Evaluation expected = one->evaluate_heldout(), report = together->evaluate_heldout();
    CHECK(report.scored == expected.scored);
    CHECK(std::abs(report.loss - expected.loss) < 1e-10 * expected.loss);
    REQUIRE(report.figures.size() == expected.figures.size());
    for (std::size_t i = 0; i < report.figures.size(); ++i) {
      const auto& [name, value] = report.figures[i];
      // Equal sentences are ranked by the last bits of what is predicted of them, in which batches
      // differ. Two neighbours of 100 that change places make 1.2e-5.
      const double tolerance = name == "spearman" ? 1e-4 : 1e-9;
      INFO(name);
      CHECK(std::abs(value - expected.figures[i].second) < tolerance);
    }
  }
}

}  // namespace

TEST_CASE("ranks together pre-train the encoder that one trains", "[mpi][encoder_tasks]") {
  const TinySentences data;
  check_ranks([&](std::vector<std::string> overrides, const Communicator& ranks) {
    overrides.push_back("train/batch_tokens=288");
    return data.electra<double>(overrides, ranks);
  });
}

TEST_CASE("ranks together fine-tune the encoder that one trains", "[mpi][encoder_tasks]") {
  const TinySentences data;
  for (const char* table : {"classes", "numbers"})
    check_ranks([&](std::vector<std::string> overrides, const Communicator& ranks) {
      overrides.push_back("train/batch_sentences=9");
      return data.sentences<double>(table, overrides, ranks);
    });
}

#endif
