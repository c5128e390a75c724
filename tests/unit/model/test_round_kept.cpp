// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/router_registry.hpp"
#include "small_model.hpp"
#include "support/catch.hpp"

#include <cmath>

using namespace kokomoe;
using namespace kokomoe::test;

// What exactly is rounded, and when, stands in the tests of attention, experts and KeptRows; here
// is that nothing of a model reads what is not there any more.
TEST_CASE("a model whose activations are rounded has nearly its gradients", "[model]") {
  const NormKind norm = GENERATE(NormKind::rms, NormKind::layer);
  const bool recompute = GENERATE(false, true);
  const std::string router = GENERATE("top_k", "dense_mixture");
  const ExpertKernels kernels = GENERATE(ExpertKernels::automatic, ExpertKernels::gemm);
  CAPTURE(recompute, router, to_string(kernels));
  DecoderConfig config = small_config(router, router == "top_k" ? 2 : 1);
  config.norm = norm;
  config.dropout = 0.2;
  config.moe.recompute = recompute;
  config.moe.kernels = kernels;
  config.moe.shared_experts = router == "top_k" ? 1 : 0;
  SmallModel<double> small(config);
  PackedStep step({1, 5, 33}, small_vocabulary);
  const double whole_loss = small.loss(step, 0.1, false, {});
  const std::vector<Routing<double>> replay = small.recorded();
  small.loss(step, 0.1, true, replay);
  const std::size_t bytes = step.saved.high_water();
  std::vector<std::vector<double>> whole;
  for (const auto& entry : small.store.entries())
    whole.push_back(on_host(small.store.gradient_vector(small.store.find(entry.spec.name))));

  PackedStep again({1, 5, 33}, small_vocabulary);
  again.ctx.round_kept = true;
  const double loss = small.loss(again, 0.1, true, replay);
  CHECK(again.saved.high_water() < (recompute ? 0.75 : 0.65) * static_cast<double>(bytes));
  CHECK(loss != whole_loss);
  CHECK(std::abs(loss - whole_loss) < 0.01 * whole_loss);
  for (std::size_t i = 0; i < whole.size(); ++i) {
    const std::string& name = small.store.entries()[i].spec.name;
    INFO(name);
    const auto gradient = on_host(small.store.gradient_vector(small.store.find(name)));
    CHECK(distance(gradient, whole[i]) < 0.03);
  }

  // Evaluation is the same to the bit.
  again.ctx.training = step.ctx.training = false;
  CHECK(small.loss(again, 0.1, false, replay) == small.loss(step, 0.1, false, replay));
}

// Routers project the branch's input, which is in other memory in backward.
TEST_CASE("every router finds the tokens that were not kept", "[model]") {
  for (const RouterInfo& router : router_registry()) {
    INFO(router.name);
    DecoderConfig config = small_config(router.name, router.takes_k ? 2 : router.defaults.k);
    if (!router.balance_loss) config.moe.balance = 0;
    if (!router.logits) config.moe.z_loss = 0;
    config.moe.allow_future = true;
    config.moe.vocabulary = small_vocabulary;
    config.moe.token_counts =
        std::make_shared<const std::vector<std::int64_t>>(small_vocabulary, 3);
    SmallModel<double> small(config);
    std::vector<std::vector<double>> gradients[2];
    std::vector<Routing<double>> replay;
    for (const bool round_kept : {false, true}) {
      PackedStep step({1, 5, 33}, small_vocabulary);
      step.ctx.sequence_loss = device_vector(std::vector<double>{0.5, 2, 1});
      step.ctx.round_kept = round_kept;
      if (!round_kept) {
        small.loss(step, 0.1, false, {});
        replay = small.recorded();
      }
      small.loss(step, 0.1, true, replay);
      for (const auto& entry : small.store.entries())
        gradients[round_kept].push_back(entry.spec.state ? std::vector<double>{1}
                                                         : on_host(small.store.gradient_vector(
                                                               small.store.find(entry.spec.name))));
    }
    for (std::size_t i = 0; i < gradients[0].size(); ++i) {
      INFO(small.store.entries()[i].spec.name);
      if (largest(gradients[0][i]) < 1e-12) continue;  // nothing to be near to
      CHECK(distance(gradients[1][i], gradients[0][i]) < 0.05);
    }
  }
}
