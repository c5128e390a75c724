// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "support/catch.hpp"
#include "support/layer_rig.hpp"

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

MoeConfig config(double decay) {
  MoeConfig result = small_config("reinforce");
  result.k = 2;
  result.options.set("mask_eps", 0.0);
  result.options.set("baseline_decay", decay);
  return result;
}

void backward(LayerRig<double>& rig, const std::vector<double>& losses) {
  rig.step.ctx.sequence_loss = device_vector(losses);
  rig.forward();
  rig.backward();
}

}  // namespace

TEST_CASE("reinforce's baseline is the running mean of the sequences' shares",
          "[router][estimator]") {
  LayerRig<double> rig(config(0.75), {4, 0, 1, 3});
  rig.step.ctx.loss_scale = 0.5;
  const auto baseline = [&] { return rig.value("router.baseline"); };
  Kokkos::deep_copy(rig.store.value_vector(rig.store.find("moe.router.baseline")), 0.0);
  rig.step.ctx.communicator = &rig.step.alone;
  // No backward, no mean.
  rig.layer.end_step(rig.step.ctx, {});
  CHECK(baseline() == std::vector<double>{0, 0});
  // Two micro-batches; the empty sequence counts in none.
  backward(rig, {6, 100, 2, 4});
  backward(rig, {8, 100, 2, 2});
  CHECK(baseline() == std::vector<double>{0, 0});
  rig.layer.end_step(rig.step.ctx, {});
  CHECK(baseline() == std::vector<double>{2, 1});
  backward(rig, {2, 100, 1, 3});
  rig.layer.end_step(rig.step.ctx, {});
  CHECK(baseline()[0] == Approx(0.75 * 2 + 0.25 * 1));
  rig.layer.end_step(rig.step.ctx, {});
  CHECK(baseline()[0] == Approx(1.75));
  const auto& entry = rig.store.entry(rig.store.find("moe.router.baseline"));
  CHECK(entry.spec.state);
}

TEST_CASE("reinforce takes the loss of the token's own sequence", "[router][estimator]") {
  LayerRig<double> rig(config(0.9), {2, 0, 3});
  Kokkos::deep_copy(rig.store.value_vector(rig.store.find("moe.router.baseline")), 0.0);
  rig.step.ctx.loss_scale = 0.5;
  Kokkos::deep_copy(rig.dy, 0.0);  // the score's part alone
  const auto gradient = [&](const std::vector<double>& losses) {
    rig.store.begin_update();
    backward(rig, losses);
    return rig.gradient("router.weight");
  };
  const auto first = gradient({1, 0, 0}), last = gradient({0, 0, 1}), none = gradient({0, 9, 0}),
             both = gradient({2, 0, -1});
  CHECK(largest(first) > 1e-3);
  CHECK(largest(last) > 1e-3);
  CHECK(largest(none) == 0);
  std::vector<double> sum;
  for (std::size_t i = 0; i < first.size(); ++i) sum.push_back(2 * first[i] - last[i]);
  CHECK(worst_error(both, sum) < 1e-13);
}

TEST_CASE("reinforce refuses to go back without losses", "[router][estimator]") {
  LayerRig<double> rig(config(0.9), {2, 3});
  rig.forward();
  CHECK_THAT(message_of<Error>([&] { rig.backward(); }), contains("loss of each of the 2"));
}
