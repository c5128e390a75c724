// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/router_registry.hpp"
#include "support/catch.hpp"
#include "support/communicator.hpp"
#include "support/layer_layout.hpp"

#include <string>
#include <type_traits>
#include <vector>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

struct Case {
  std::string name;
  MoeConfig config;
  bool round_kept = false;
};

MoeConfig config_of(const std::string& router, int experts, int k) {
  MoeConfig config;
  config.d_model = 6;
  config.d_hidden = 10;
  config.experts = experts;
  config.k = k;
  config.router = router;
  config.bias = true;
  config.output_gain = true;
  config.balance = 0.02;
  config.z_loss = 0.01;
  config.vocabulary = 11;
  return config;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  all.push_back({"sparsemixer, 4 experts", config_of("sparsemixer", 4, 1)});
  all.push_back({"sparsemixer, 7 experts", config_of("sparsemixer", 7, 1)});
  all.push_back({"switch, fewer experts than ranks", config_of("switch", 2, 1)});
  // A rank without tokens must decide as the others do who sums the gain's gradient.
  all.push_back({"experts with weights of their own", config_of("sparsemixer", 4, 1)});
  all.back().config.options.set("expert_grad", std::string("probability"));
  all.push_back({"top_k, 5 experts, k = 3", config_of("top_k", 5, 3)});
  Case shared{"shared experts, swiglu, no bias", config_of("top_k", 6, 2)};
  shared.config.shared_experts = 1;
  shared.config.activation = Activation::swiglu;
  shared.config.bias = false;
  all.push_back(shared);
  Case choice{"experts choose tokens", config_of("expert_choice", 5, 1)};
  choice.config.balance = 0;
  choice.config.allow_future = true;
  all.push_back(choice);
  Case capacity{"a capacity drops assignments", config_of("switch", 4, 1)};
  capacity.config.capacity_factor = 0.6;
  capacity.config.allow_future = true;
  all.push_back(capacity);
  all.push_back({"relu routing, any number of experts a token", config_of("remoe", 4, 2)});
  all.back().config.balance = 0;
  Case everything{"every expert for every token", config_of("dense_mixture", 3, 1)};
  everything.config.balance = 0;
  all.push_back(everything);
  everything.name = "every expert for every token, again in backward";
  everything.config.recompute = true;
  all.push_back(everything);
  shared.name = "shared experts, again in backward";
  shared.config.recompute = true;
  all.push_back(shared);
  for (const std::string router :
       {"expert_choice", "base", "s_base", "quantile_balance", "gshard", "switch"}) {
    Case spans{router + " with groups over ranks",
               config_of(router, 4, router == "gshard" ? 2 : 1)};
    if (router != "switch" && router != "gshard") spans.config.balance = 0;
    spans.config.allow_future = true;
    spans.config.routing_group = 14;  // of 42 tokens; no sequence ends there
    spans.config.group_over_ranks = true;
    if (router == "switch") spans.config.capacity_factor = 0.7;
    all.push_back(spans);
  }
  for (Case rounded : {all.front(), shared}) {
    rounded.name += ", rounded to bfloat16";
    rounded.round_kept = true;
    all.push_back(rounded);
  }
  if (by_blocks(ExpertKernels::blocks, false)) {
    Case weights{"sparsemixer, 7 experts, weights in bfloat16", config_of("sparsemixer", 7, 1)};
    weights.config.kernels = ExpertKernels::blocks;
    weights.config.round_weights = true;
    all.push_back(weights);
  }
  Case one{"one expert", config_of("switch", 1, 1)};
  all.push_back(one);
  return all;
}

/// Sequences cut unevenly; with three ranks and more the second has none.
LayerBatch batch_for(int ranks) {
  LayerBatch batch{{5, 9, 3, 8, 6, 4, 7}, {0}};
  const int sequences = static_cast<int>(batch.lengths.size());
  for (int r = 1; r < ranks; ++r) {
    const int even = sequences * r / ranks;
    batch.cuts.push_back(ranks > 2 && r == 2 ? batch.cuts.back() : even);
  }
  batch.cuts.push_back(sequences);
  return batch;
}

std::vector<ParallelOptions> options_for(int ranks) {
  std::vector<ParallelOptions> all;
  for (int p = 1; p <= ranks; ++p) {
    if (ranks % p != 0) continue;
    ParallelOptions options;
    options.expert_ranks = p;
    all.push_back(options);
    if (p == 1) continue;
    for (const int chunks : {1, 2, 64}) {
      for (const bool staged : {false, true}) {
        options.exchange_chunks = chunks;
        options.staged = staged;
        options.largest_message = staged ? 100 : std::size_t(1) << 30;
        all.push_back(options);
      }
    }
    if (p < 4) continue;
    options.path = ExchangePath::node;
    options.ranks_per_node = p / 2;  // pretended
    for (const int chunks : {1, 2}) {
      options.exchange_chunks = chunks;
      all.push_back(options);
    }
  }
  return all;
}

std::string describe(const ParallelOptions& o) {
  return std::to_string(o.expert_ranks) + " expert ranks, " + std::to_string(o.exchange_chunks) +
         " chunks" + (o.staged ? ", staged" : "") +
         (o.path == ExchangePath::node ? ", by node" : "");
}

/// The layer on this many ranks against all tokens and all experts on this rank alone.
template <class T>
void compare_with_one(const Case& c, const std::vector<ParallelOptions>& layouts,
                      double tolerance) {
  const Communicator& world = communicator();
  const LayerBatch batch = batch_for(world.size());
  LayerBatch whole = batch;
  whole.cuts = {0, static_cast<int>(batch.lengths.size())};
  LayerOnRank<T> one(c.config, whole, Communicator(), ParallelOptions());
  one.step->ctx.round_kept = c.round_kept;
  const double norm = one.run();
  const std::vector<T> y = on_host(one.y), dx = on_host(one.dx);
  const std::vector<double> statistics = on_host(one.statistics);
  const auto width = static_cast<std::size_t>(c.config.d_model);
  const std::vector<int> experts = on_host(one.saved.routing.expert);
  const std::size_t slots = experts.size() / one.y.extent(0);

  for (const ParallelOptions& options : layouts) {
    INFO(c.name << " on " << world.size() << " ranks, " << describe(options));
    LayerOnRank<T> part(c.config, batch, world, options);
    part.step->ctx.round_kept = c.round_kept;
    const double part_norm = part.run();
    CHECK(on_host(part.saved.routing.expert) == part.own_rows(experts, slots));
    CHECK(worst_error(on_host(part.y), part.own_rows(y, width), largest(y)) < tolerance);
    CHECK(worst_error(on_host(part.dx), part.own_rows(dx, width), largest(dx)) < tolerance);
    CHECK(worst_error(on_host(part.statistics), statistics, largest(statistics)) < tolerance);
    CHECK(std::abs(part_norm - norm) < tolerance * norm);
    for (const auto& entry : part.store.entries()) {
      if (entry.spec.state) continue;
      INFO(entry.spec.name);
      const auto all = on_host(one.store.gradient_vector(one.store.find(entry.spec.name)));
      const auto own = on_host(part.store.gradient_vector(part.store.find(entry.spec.name)));
      CHECK(worst_error(own, part.own_part(entry, all), largest(all)) < tolerance);
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("a layer gives the same on any layout", "[expert_parallel]", float, double) {
  const double tolerance = std::is_same_v<TestType, float> ? 1e-5 : 1e-12;
  for (const Case& c : cases())
    compare_with_one<TestType>(c, options_for(communicator().size()), tolerance);
}

// Whether a router looks at a group, only its capacity does, or nothing: the ranks are not seen.
TEST_CASE("every router gives the same with groups over ranks", "[expert_parallel]") {
  std::vector<ParallelOptions> options(1);
  options.push_back({});
  options.back().expert_ranks = 0;
  for (const RouterInfo& router : router_registry()) {
    for (const double factor : {0.0, 0.7}) {
      if (factor > 0 && !router.takes_capacity && !router.own_capacity) continue;
      Case c{router.name + ", capacity " + std::to_string(factor),
             config_of(router.name, 4, router.takes_k ? 2 : router.defaults.k)};
      if (!router.balance_loss) c.config.balance = 0;
      if (!router.logits) c.config.z_loss = 0;
      c.config.capacity_factor = factor;
      c.config.allow_future = true;
      c.config.routing_group = 14;  // of 42 tokens; no sequence ends there
      c.config.group_over_ranks = true;
      compare_with_one<double>(c, options, 1e-12);
    }
  }
}

TEST_CASE("results do not depend on chunks, staging or path", "[expert_parallel]") {
  const Communicator& world = communicator();
  const LayerBatch batch = batch_for(world.size());
  for (const Case& c : cases()) {
    std::vector<std::vector<float>> first;
    for (const ParallelOptions& options : options_for(world.size())) {
      if (options.expert_ranks != world.size()) continue;
      INFO(c.name << ", " << describe(options));
      LayerOnRank<float> part(c.config, batch, world, options);
      part.run();
      std::vector<std::vector<float>> all{on_host(part.y), on_host(part.dx)};
      for (const auto& entry : part.store.entries())
        if (!entry.spec.state)
          all.push_back(on_host(part.store.gradient_vector(part.store.find(entry.spec.name))));
      if (first.empty()) first = all;
      CHECK(all == first);
    }
  }
}

TEST_CASE("a routing can be replayed on a layout", "[expert_parallel]") {
  const Communicator& world = communicator();
  const LayerBatch batch = batch_for(world.size());
  ParallelOptions options;
  options.expert_ranks = 0;
  LayerOnRank<double> part(config_of("sparsemixer", 5, 1), batch, world, options);
  part.run();
  const auto y = on_host(part.y), dx = on_host(part.dx);
  const Routing<double> routing = part.saved.routing.clone(part.step->ctx.space);
  part.step->ctx.seed += 1;
  part.run(&routing);
  CHECK(on_host(part.y) == y);
  CHECK(on_host(part.dx) == dx);
}

TEST_CASE("layouts that cannot be are refused on every rank", "[expert_parallel]") {
  const Communicator& world = communicator();
  ParallelOptions options;
  CHECK_THAT(message_of<InputError>([&] { ExpertLayout(world, world.size() + 1); }),
             contains("does not divide"));
  if (world.size() < 2) return;
  options.path = ExchangePath::node;
  options.ranks_per_node = world.size() + 1;
  CHECK_THAT(message_of<InputError>([&] { ExpertExchange(world, options); }),
             contains("parallel/exchange"));
  // A context whose exchange has other ranks than the store.
  ParallelOptions all;
  all.expert_ranks = 0;
  LayerOnRank<float> part(config_of("switch", 4, 1), batch_for(world.size()), world, all);
  part.step->ctx.exchange = nullptr;
  CHECK_THAT(message_of<Error>([&] { part.run(); }), contains("no exchange"));
}
