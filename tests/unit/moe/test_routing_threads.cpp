// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// Writes what routers choose and give back, for tests/regression/routing_threads.sh, which compares
// the files that 1 and 2 threads write.
#include "support/catch.hpp"
#include "support/layer_rig.hpp"

#include <cstdlib>
#include <fstream>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

struct Form {
  const char* router;
  int k;
};

constexpr Form forms[] = {{"sparsemixer", 2},    {"sparsemixer_v2", 2}, {"sparsemixer_v2_star", 2},
                          {"euler", 1},          {"midpoint", 1},       {"heun", 3},
                          {"uniform_path", 2},   {"reinforce", 2},      {"straight_through", 1},
                          {"reinmax", 1},        {"gshard", 2},         {"base", 1},
                          {"s_base", 2},         {"expert_choice", 1},  {"quantile_balance", 2},
                          {"top_k", 2},          {"noisy_top_k", 2},    {"xmoe", 2},
                          {"deepseek_v3", 3},    {"remoe", 2},          {"default_moe", 2},
                          {"hash", 1}};

template <class T>
void append(std::ofstream& file, const std::vector<T>& values) {
  file.write(reinterpret_cast<const char*>(values.data()),
             static_cast<std::streamsize>(values.size() * sizeof(T)));
}

template <class T>
void write(std::ofstream& file) {
  const std::size_t experts = 8;
  for (const Form& form : forms) {
    PackedStep step({300, 1, 299}, 50);
    step.ctx.sequence_loss = device_vector(std::vector<double>{1, 2, 3});
    LoneRouter<T> router(form.router, static_cast<int>(experts), form.k);
    Draw draw(5);
    const auto columns = static_cast<std::size_t>(router.router().logit_columns());
    const Routing<T> routing = router.route(step, draw.many<T>(step.tokens() * columns, 2));
    const HostRouting<T> got = on_host(routing);
    const Matrix<T> d_logits("d_logits", step.tokens(), columns);
    const auto d_weight = draw.many<T>(got.weight.size());
    // remoe and hash have no probabilities.
    const auto d_probability = draw.many<T>(got.probability.size());
    router.backward(step, routing, d_weight, d_probability, d_logits);
    router.router().end_step(
        step.ctx, {device_vector(std::vector<double>{9, 8, 7, 6, 5, 4, 3, 2}), 600});
    router.backward(step, routing, d_weight, {}, d_logits);
    append(file, got.expert);
    append(file, got.kept);
    append(file, got.weight);
    append(file, got.scale);
    append(file, got.probability);
    append(file, on_host(d_logits));
  }
}

/// Whole layers whose routers sum over tokens or outputs.
template <class T>
void write_layers(std::ofstream& file) {
  for (const std::string router : {"noisy_top_k", "xmoe", "remoe", "default_moe"}) {
    MoeConfig config = small_config(router);
    config.k = 2;
    LayerRig<T> rig(config, {300, 1, 299});
    const Vector<double> sums("sums", static_cast<std::size_t>(LoadStatistics::width(4)));
    for (int pass = 0; pass < 2; ++pass) {
      rig.step.reset();
      rig.layer.forward(rig.step.ctx, rig.x, rig.y, rig.saved, sums);
      rig.backward();
      rig.layer.end_step(rig.step.ctx, {Vector<double>(sums.data(), 4), 600});
      Kokkos::fence();
      append(file, on_host(rig.y));
      append(file, on_host(sums));
    }
    for (const auto& entry : rig.store.entries()) {
      const auto handle = rig.store.find(entry.spec.name);
      append(file, on_host(entry.spec.state ? rig.store.value_vector(handle)
                                            : rig.store.gradient_vector(handle)));
    }
  }
}

}  // namespace

TEST_CASE("write routings and their gradients", "[.][write-routing]") {
  const char* path = std::getenv("KOKOMOE_WRITE_ROUTING");
  REQUIRE(path != nullptr);
  std::ofstream file(path, std::ios::binary);
  write<float>(file);
  write<double>(file);
  write_layers<float>(file);
  write_layers<double>(file);
  CHECK(file.good());
}
