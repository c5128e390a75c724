// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// Single kernels under google-benchmark: routing, the dispatch plan, attention. Whole layers are
// compared by `kokomoe bench layer`.
#include "kokomoe/core/gemm.hpp"
#include "kokomoe/moe/dispatch_plan.hpp"
#include "kokomoe/moe/router_registry.hpp"
#include "kokomoe/nn/attention_kernel.hpp"

#include <benchmark/benchmark.h>

#include <cmath>
#include <string>

namespace {

using namespace kokomoe;

/// A context of T tokens in sequences of `length`, and arenas of its own.
struct Bench {
  Communicator alone;
  Arena saved{"bench::saved"}, scratch{"bench::scratch"};
  StepContext ctx;

  explicit Bench(int tokens, int length) {
    ctx.communicator = &alone;
    ctx.saved = &saved;
    ctx.scratch = &scratch;
    ctx.tokens = number_rows(ctx.space, tokens);
    ctx.tokens.sequences = tokens / length;
    ctx.tokens.max_length = length;
    const Vector<int> offsets("bench::offsets", static_cast<std::size_t>(tokens / length) + 1);
    const Vector<int> position("bench::position", static_cast<std::size_t>(tokens));
    Kokkos::parallel_for(
        KOKOMOE_LABEL("bench::positions"), Kokkos::RangePolicy<ExecutionSpace>(0, tokens),
        KOKKOS_LAMBDA(const int t) {
          position(t) = t % length;
          if (t % length == 0) offsets(t / length + 1) = t + length;
        });
    ctx.tokens.sequence_offsets = offsets;
    ctx.tokens.position = position;
    Kokkos::fence();
  }
};

void fill(const Matrix<float>& matrix) {
  const std::size_t columns = matrix.extent(1);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("bench::fill"), Kokkos::RangePolicy<ExecutionSpace>(0, matrix.size()),
      KOKKOS_LAMBDA(const std::size_t i) {
        const PhiloxBlock r = philox(static_cast<std::uint32_t>(i), 0, 0, 0, 1, 2);
        matrix(i / columns, i % columns) = 2 * open_uniform<float>(r.word[0]) - 1;
      });
  Kokkos::fence();
}

/// Choice, plan and the router's backward on given logits. Arguments: experts, k.
void route(benchmark::State& state, const std::string& name) {
  const int tokens = 4096, experts = static_cast<int>(state.range(0));
  const int k = static_cast<int>(state.range(1));
  Bench bench(tokens, 256);
  ParameterStore<float> store;
  const auto router = make_router<float>(name, {8, experts, k, 0, "router"}, {}, store);
  store.allocate(bench.ctx.space, 1);
  const Matrix<float> z("bench::z", tokens, experts), d_z("bench::d_z", tokens, experts);
  const Vector<float> d_weight("bench::d_weight",
                               static_cast<std::size_t>(router->max_slots(tokens)));
  fill(z);
  DispatchPlan plan;
  for (auto _ : state) {
    bench.saved.reset();
    bench.scratch.reset();
    const Routing<float> routing = router->route_logits(bench.ctx, z, nullptr);
    build_dispatch_plan(bench.ctx.space, bench.saved, bench.scratch, tokens, experts,
                        routing.slots_per_token, routing.token, routing.expert, plan);
    router->logits_backward(bench.ctx, z, routing, {d_weight, {}, {}}, d_z);
    Kokkos::fence();
  }
  state.SetItemsProcessed(state.iterations() * tokens);
}

/// Forward and backward of causal attention. Argument: sequence length.
void attention(benchmark::State& state) {
  const int tokens = 4096, length = static_cast<int>(state.range(0)), heads = 8, width = 64;
  const int d = heads * width;
  Bench bench(tokens, length);
  const Matrix<float> qkv("bench::qkv", tokens, 3 * d), d_qkv("bench::d_qkv", tokens, 3 * d);
  const Matrix<float> out("bench::out", tokens, d), d_out("bench::d_out", tokens, d);
  const Matrix<float> log_sum("bench::log_sum", tokens, heads);
  fill(qkv);
  fill(d_out);
  AttentionInput<float> input;
  input.query = input.key = input.value = qkv;
  input.key_column = d;
  input.value_column = 2 * d;
  input.query_offsets = input.key_offsets = bench.ctx.tokens.sequence_offsets;
  input.position = bench.ctx.tokens.position;
  input.sequences = tokens / length;
  input.max_queries = length;
  input.heads = heads;
  input.width = width;
  for (auto _ : state) {
    attention_forward<float>(bench.ctx, input, out, log_sum);
    attention_backward<float>(bench.ctx, input, out, log_sum, d_out, d_qkv, d_qkv, d_qkv);
    Kokkos::fence();
  }
  // Half of the square, two products forward and five backward, two operations each.
  const double flops = 7.0 * tokens * length * d;
  state.counters["GFLOP/s"] = benchmark::Counter(flops * static_cast<double>(state.iterations()) * 1e-9,
                                                 benchmark::Counter::kIsRate);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  Kokkos::ScopeGuard guard(argc, argv);
  configure_blas();
  for (const RouterInfo& info : router_registry())
    for (const int experts : {4, 16, 64})
      benchmark::RegisterBenchmark(("route/" + info.name).c_str(),
                                   [name = info.name](benchmark::State& s) { route(s, name); })
          ->Args({experts, info.takes_k ? 2 : 1});
  benchmark::RegisterBenchmark("attention", attention)->Arg(128)->Arg(256)->Arg(1024);
  benchmark::RunSpecifiedBenchmarks();
}
