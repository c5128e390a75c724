// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/study/fidelity.hpp"

#include <algorithm>

namespace kokomoe {

Schema fidelity_schema() {
  Schema schema;
  schema.add(KeySpec::text("run/task", "fidelity", "what is done").choice({"fidelity"}))
      .add(KeySpec::integer("run/seed", 1, "of the random problems and every draw")
               .range(0, 1099511627775.0));
  schema
      .add(KeySpec::text("fidelity/mode", "orders",
                         "orders: expectations, enumerated; spread: by drawing; training: in a "
                         "language model; planted: a task with known experts")
               .choice({"orders", "spread", "training", "planted"}))
      .add(KeySpec::list("fidelity/estimators", {},
                         "routers that draw, or conventional; empty = all"))
      .add(KeySpec::numbers("fidelity/experts", {3, 6, 16}, "E of the problems").range(2, 64))
      .add(KeySpec::numbers("fidelity/k", {1}, "experts for each token").range(1, 8))
      .add(KeySpec::list("fidelity/sites", {"one"},
                         "perturbed sites: one, two tokens side by side, two layers in sequence")
               .choice({"one", "tokens", "layers"}))
      .add(KeySpec::numbers("fidelity/scales", {0.0625, 0.03125, 0.015625, 0.0078125},
                            "sizes of the experts' outputs")
               .range(1e-6, 1e3))
      .add(KeySpec::integer("fidelity/problems", 32, "random problems for each E").range(1, 1e6))
      .add(KeySpec::integer("fidelity/channels", 8, "of the experts' outputs").range(1, 4096))
      .add(KeySpec::integer("fidelity/samples", 20000,
                            "draws for each problem; in training, steps averaged")
               .range(2, 1e7));
  schema
      .add(KeySpec::list("fidelity/checkpoints", {}, "in training: run or step folders"))
      .add(KeySpec::text("fidelity/deck", "", "in training: a language model's deck to train"))
      .add(KeySpec::list("fidelity/overrides", {}, "section/key=value for that deck"))
      .add(KeySpec::integer("fidelity/steps", 100, "in training: updates of the deck")
               .range(0, 1e9))
      .add(KeySpec::integer("fidelity/every", 50, "in training: updates between measurements")
               .range(1, 1e9))
      .add(KeySpec::boolean("fidelity/keep_mask", false,
                            "in training: with the trained router's mask, not without one"))
      .add(KeySpec::integer("fidelity/tokens", 16, "in training: tokens of the sequence")
               .range(2, 4096));
  schema
      .add(KeySpec::list("planted/routers", {}, "names; empty = all that have something to train"))
      .add(KeySpec::integer("planted/clusters", 8, "hidden clusters, and experts").range(2, 64))
      .add(KeySpec::integer("planted/k", 0, "experts a token, where a router takes k; 0 = its own")
               .range(0, 64))
      .add(KeySpec::integer("planted/seeds", 3, "runs of each").range(1, 1000))
      .add(KeySpec::integer("planted/steps", 400, "updates").range(1, 1e6))
      .add(KeySpec::integer("planted/batch_tokens", 256, "tokens of an update").range(1, 1e6))
      .add(KeySpec::real("planted/learning_rate", 1e-2, "of AdamW, constant").range(0, 10))
      .add(KeySpec::real("planted/margin", 0,
                         "least gain over the frozen router, as a share of its loss")
               .range(-1, 1))
      .add(KeySpec::real("planted/router_gradient", 1,
                         "factor on the router's gradient; -1 shows that the check can fail")
               .range(-1e6, 1e6));
  return schema;
}

FidelityConfig read_fidelity_deck(const Deck& deck) {
  FidelityConfig config;
  const std::string& mode = deck.text("fidelity/mode");
  config.mode = mode == "orders"     ? FidelityConfig::Mode::orders
                : mode == "spread"   ? FidelityConfig::Mode::spread
                : mode == "training" ? FidelityConfig::Mode::training
                                     : FidelityConfig::Mode::planted;
  config.seed = static_cast<std::uint64_t>(deck.integer("run/seed"));
  config.estimators = deck.list("fidelity/estimators");
  if (config.estimators.empty()) config.estimators = estimator_names();
  for (const std::string& name : config.estimators) {
    try {
      estimator_form(name, false);
    } catch (const InputError& error) {
      deck.refuse("fidelity/estimators", error.what());
    }
  }
  const auto whole = [&](const char* key) {
    std::vector<int> result;
    for (const double value : deck.numbers(key)) {
      if (value != static_cast<int>(value)) deck.refuse(key, "must hold whole numbers");
      result.push_back(static_cast<int>(value));
    }
    if (result.empty()) deck.refuse(key, "is empty");
    return result;
  };
  config.experts = whole("fidelity/experts");
  config.k = whole("fidelity/k");
  for (const int k : config.k)
    if (k > *std::max_element(config.experts.begin(), config.experts.end()))
      deck.refuse("fidelity/k", "exceeds every number of fidelity/experts");
  for (const std::string& name : deck.list("fidelity/sites"))
    config.layouts.push_back(name == "one"      ? SiteLayout::one
                             : name == "tokens" ? SiteLayout::tokens
                                                : SiteLayout::layers);
  if (config.layouts.empty()) deck.refuse("fidelity/sites", "is empty");
  config.scales = deck.numbers("fidelity/scales");
  if (config.scales.empty() ||
      (config.mode == FidelityConfig::Mode::orders &&
       std::count(config.scales.begin(), config.scales.end(), config.scales.front()) ==
           static_cast<std::ptrdiff_t>(config.scales.size())))
    deck.refuse("fidelity/scales", "a slope needs two different sizes at least");
  config.problems = static_cast<int>(deck.integer("fidelity/problems"));
  config.channels = static_cast<int>(deck.integer("fidelity/channels"));
  config.samples = static_cast<int>(deck.integer("fidelity/samples"));
  config.checkpoints = deck.list("fidelity/checkpoints");
  config.deck = deck.text("fidelity/deck");
  config.overrides = deck.list("fidelity/overrides");
  config.steps = deck.integer("fidelity/steps");
  config.every = deck.integer("fidelity/every");
  config.keep_mask = deck.boolean("fidelity/keep_mask");
  config.tokens = static_cast<int>(deck.integer("fidelity/tokens"));
  if (config.mode == FidelityConfig::Mode::training) {
    if (config.checkpoints.empty() && config.deck.empty())
      deck.refuse("fidelity/checkpoints", "names none, and fidelity/deck is empty too");
    if (config.samples > 32767) deck.refuse("fidelity/samples", "must be below 32768 in training");
  }
  config.routers = deck.list("planted/routers");
  if (config.routers.empty()) config.routers = trainable_routers();
  for (const std::string& name : config.routers) {
    try {
      if (!router_info(name).logits)
        throw InputError("router \"" + name + "\" has nothing to train");
    } catch (const InputError& error) {
      deck.refuse("planted/routers", error.what());
    }
  }
  config.clusters = static_cast<int>(deck.integer("planted/clusters"));
  config.planted_k = static_cast<int>(deck.integer("planted/k"));
  if (config.planted_k > config.clusters)
    deck.refuse("planted/k", "exceeds planted/clusters = " + std::to_string(config.clusters));
  config.seeds = static_cast<int>(deck.integer("planted/seeds"));
  if (config.mode == FidelityConfig::Mode::planted) config.steps = deck.integer("planted/steps");
  config.batch_tokens = static_cast<int>(deck.integer("planted/batch_tokens"));
  config.learning_rate = deck.real("planted/learning_rate");
  config.margin = deck.real("planted/margin");
  config.router_gradient = deck.real("planted/router_gradient");
  return config;
}

}  // namespace kokomoe
