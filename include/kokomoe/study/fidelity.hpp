// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/io/deck.hpp"
#include "kokomoe/moe/router_registry.hpp"
#include "kokomoe/parallel/communicator.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace kokomoe {

/// How the perturbed sites (a site is one token at one layer) of a small problem stand together.
enum class SiteLayout {
  one,     ///< one site
  tokens,  ///< two tokens side by side, one loss of both
  layers   ///< two layers in sequence: the second's logits and experts depend on the first's output
};

/// One row of a fidelity table. What a mode does not measure is absent.
struct FidelityResult {
  std::string estimator;
  std::string objective;  ///< "A" or "B": see docs/estimators.md
  std::string layout;     ///< "one", "tokens", "layers"; "model" in training
  int sites = 1;
  int k = 1;
  bool argmax_exception = false;
  /// |mean estimate - exact| / |exact|, cosine, and the error after the best scalar, which Adam would
  /// absorb. Orders: medians, those errors at `scale`, the first of the deck's scales.
  double relative_error = 0, cosine = 0, scaled_error = 0;
  std::optional<double> scale;
  /// Slope of log error over log scale; absent where the error is rounding alone.
  std::optional<double> order, scaled_order;
  /// Relative to the exact gradient: |bias|, total variance, and bias^2 + variance.
  std::optional<double> bias, variance, mse;
  std::optional<double> expert_runs;  ///< experts that run for a token
  // In training.
  std::optional<std::int64_t> step;
  std::optional<int> layer;  ///< index of the block; absent: all layers together
  std::optional<double> relative_error_deviation;  ///< standard error, by jackknife
  std::optional<double> redrawn_error, redrawn_error_deviation;  ///< with the others drawn again
};

/// An estimator by the name of the studies: a router, or a form of one.
struct EstimatorForm {
  std::string name;
  std::string router;
  RouterOptions options;
  bool argmax_exception = false;
};

/// "conventional" and every router that draws. Throws InputError for other names.
EstimatorForm estimator_form(const std::string& name, bool argmax_exception);
std::vector<std::string> estimator_names();
/// True when the router has the option argmax_exception.
bool has_argmax_exception(const std::string& estimator);

struct FidelityConfig {
  enum class Mode { orders, spread, training, planted };
  Mode mode = Mode::orders;
  std::uint64_t seed = 1;
  std::vector<std::string> estimators;
  // Orders and spread: random problems.
  std::vector<int> experts;
  std::vector<int> k;
  std::vector<SiteLayout> layouts;
  std::vector<double> scales;  ///< sizes h of the experts' outputs
  int problems = 1;            ///< random problems for each E
  int channels = 8;
  int samples = 1;             ///< spread: draws for each problem; training: steps averaged
  // In training.
  std::vector<std::string> checkpoints;  ///< run or step folders
  std::string deck;                      ///< of a language model that is trained meanwhile
  std::vector<std::string> overrides;    ///< of that deck or of the checkpoints' decks
  std::int64_t steps = 0, every = 1;     ///< updates of the deck, and between measurements
  int tokens = 16;                       ///< of the one sequence that is measured
  bool keep_mask = false;                ///< the trained router's mask, or none
  // Planted task.
  std::vector<std::string> routers;
  int clusters = 4;
  int planted_k = 0;           ///< of routers that take k; 0 = their default
  int seeds = 3;
  double margin = 0;           ///< least relative gain over the frozen router
  double router_gradient = 1;  ///< factor on the router's gradient; -1 shows that the check can fail
  int batch_tokens = 256;
  double learning_rate = 1e-2;
};

/// One router on the planted task, against itself with a frozen, randomly initialised router.
struct PlantedResult {
  std::string router;
  std::vector<double> losses, frozen_losses;  ///< mean squared error in evaluation, for each seed
  double gain = 0;                            ///< 1 - mean loss / mean frozen loss
  double purity = 0, frozen_purity = 0;       ///< means over the seeds; see docs/estimators.md
  bool passed = false;                        ///< gain reaches the margin
};

/// Every key of run/task = "fidelity".
Schema fidelity_schema();
FidelityConfig read_fidelity_deck(const Deck& deck);

/// The whole law enumerated: the expected gradient of each estimator against the exact one.
std::vector<FidelityResult> fidelity_orders(const FidelityConfig& config);
/// The same problems at one site by drawing: bias, variance and their sum.
std::vector<FidelityResult> fidelity_spread(const FidelityConfig& config);

/// Called when `count` results were added.
using FidelityProgress = std::function<void(const std::vector<FidelityResult>&, std::size_t count)>;

/// The gradients of every router's weights in a language model, on one short sequence: the mean of
/// the estimator over `samples` draws against the exact one, from counterfactual forwards of one
/// site (token and layer) at a time with every other choice replayed; beside it with the choices of
/// later layers drawn again. The models' own router is replaced by each estimator in turn, which
/// keeps the weights. In double, whatever the model was trained in.
std::vector<FidelityResult> fidelity_training(const FidelityConfig& config,
                                              const Communicator& communicator,
                                              const FidelityProgress& progress = {});

/// Trains one MoE layer on tokens of hidden clusters, each of which needs an expert of its own.
std::vector<PlantedResult> fidelity_planted(const FidelityConfig& config);
/// Routers with something to train.
std::vector<std::string> trainable_routers();

}  // namespace kokomoe
