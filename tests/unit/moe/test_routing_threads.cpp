// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// Writes what routers choose and give back, for tests/regression/routing_threads.sh, which compares
// the files that 1 and 2 threads write.
#include "support/catch.hpp"
#include "support/lone_router.hpp"

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
                          {"s_base", 2},         {"expert_choice", 1},  {"quantile_balance", 2}};

template <class T>
void append(std::ofstream& file, const std::vector<T>& values) {
  file.write(reinterpret_cast<const char*>(values.data()),
             static_cast<std::streamsize>(values.size() * sizeof(T)));
}

template <class T>
void write(std::ofstream& file) {
  const std::size_t experts = 8;
  for (const Form& form : forms) {
    PackedStep step({300, 1, 299});
    step.ctx.sequence_loss = device_vector(std::vector<double>{1, 2, 3});
    LoneRouter<T> router(form.router, static_cast<int>(experts), form.k);
    Draw draw(5);
    const Routing<T> routing = router.route(step, draw.many<T>(step.tokens() * experts, 2));
    const HostRouting<T> got = on_host(routing);
    const Matrix<T> d_logits("d_logits", step.tokens(), experts);
    const auto d_weight = draw.many<T>(got.weight.size());
    router.backward(step, routing, d_weight, draw.many<T>(step.tokens() * experts), d_logits);
    router.router().end_step(step.ctx, {});
    router.backward(step, routing, d_weight, {}, d_logits);
    append(file, got.expert);
    append(file, got.kept);
    append(file, got.weight);
    append(file, got.scale);
    append(file, got.probability);
    append(file, on_host(d_logits));
  }
}

}  // namespace

TEST_CASE("write routings and their gradients", "[.][write-routing]") {
  const char* path = std::getenv("KOKOMOE_WRITE_ROUTING");
  REQUIRE(path != nullptr);
  std::ofstream file(path, std::ios::binary);
  write<float>(file);
  write<double>(file);
  CHECK(file.good());
}
