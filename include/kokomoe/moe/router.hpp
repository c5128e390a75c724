// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/philox.hpp"
#include "kokomoe/moe/estimator.hpp"
#include "kokomoe/moe/router_options.hpp"
#include "kokomoe/moe/routing.hpp"
#include "kokomoe/parallel/step_context.hpp"
#include "kokomoe/parameters/parameter_store.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace kokomoe {

/// Where a router stands in its model.
struct RouterPlace {
  int d_model = 0;   ///< d
  int experts = 0;   ///< E
  int k = 1;         ///< experts per token, where the router has such a number
  int layer = 0;     ///< counts in the random numbers
  std::string name;  ///< prefix of its tensors: NAME.weight, ...
  /// Consecutive tokens that a batch-coupled router looks at together; 0 = each sequence.
  int routing_group = 0;
  int vocabulary = 0;  ///< V, for routers by token id; 0 = not known
  /// (V) how often each token id occurs in the training text; null = not known.
  std::shared_ptr<const std::vector<std::int64_t>> token_counts{};
  /// For routers whose experts choose tokens; 0 = the router's own default.
  double capacity_factor = 0;
};

/// What backward knows about how well an assignment did.
template <class T>
struct RouterFeedback {
  Vector<const T> d_weight;  ///< (N) dL/dweight[n] = <dL/dy, expert output>
  /// (T, d) dL/d(sum of weighted expert outputs), for routers that add to it; empty for others.
  Matrix<const T> d_output;
  /// (T, E) dL/dP of probability-based auxiliary losses (load balance); may be empty.
  Matrix<const T> d_probability;
  Vector<const double> counts;  ///< (E) that the balance loss took, over its scope
};

/// Global facts of a finished update, for state that moves between steps.
struct RouterStatistics {
  Vector<const double> counts;  ///< (E) assignments per expert over all ranks and micro-batches
  double tokens = 0;
};

/// Decides which experts see which tokens, and carries the loss back to its logits. A host class
/// that launches kernels; its tensors live in the ParameterStore. Const while a step runs: what
/// moves between steps is store state and moves in end_step.
///
/// A new router overrides route_logits and logits_backward; the rest has defaults for a router
/// whose logits are x W^T. docs/adding_a_router.md walks through one.
template <class T>
class Router {
 public:
  virtual ~Router() = default;

  /// Upper bound N of assignment slots for T tokens, known before launch.
  virtual int max_slots(int tokens) const = 0;
  /// Columns of z. E for most; 0 for table routers, 2E with learned noise.
  virtual int logit_columns() const { return place_.experts; }

  /// x (T, d) -> z (T, logit_columns()), in ctx.saved. Default: z = x W^T.
  virtual Matrix<T> project(const StepContext& ctx, const Matrix<const T>& x) const;

  /// Chooses. With `replay`, experts, scales and masks are taken from it and weights and
  /// probabilities computed anew from z; nothing is drawn and no state is read for choices.
  virtual Routing<T> route_logits(const StepContext& ctx, const Matrix<const T>& z,
                                  const Routing<T>* replay) const = 0;

  /// Adds what the router itself gives to the output (T, d): Default MoE's table. Default: nothing.
  virtual void add_output(const StepContext&, const Routing<T>&, const Matrix<T>&) const {}
  /// True when add_output does something.
  virtual bool adds_output() const { return false; }
  /// True when route_logits fills expert_gradient_weight in training.
  virtual bool weights_expert_gradients() const { return false; }
  /// Whether experts can give the gradient of an output gain in backward, so that nobody keeps what it
  /// multiplied: they are all that it multiplies, and their gradients' weights those of the sum. Of
  /// the router, not of a batch: ranks must agree, those without tokens too.
  bool gives_gain_gradient() const { return !adds_output() && !weights_expert_gradients(); }

  /// ADDS to sum (1) the router's own auxiliary loss, summed over this rank's tokens and weighted;
  /// its gradient belongs into logits_backward. Default: it has none.
  virtual void add_auxiliary_loss(const StepContext&, const Routing<T>&,
                                  const Vector<double>& /*sum*/) const {}

  /// ADDS dL/dz to d_z (T, logit_columns()), which may already hold the z-loss' share.
  virtual void logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                               const Routing<T>& routing, const RouterFeedback<T>& feedback,
                               const Matrix<T>& d_z) const = 0;

  /// dL/dz -> parameter gradients, and ADDS to d_x (T, d). Default: W's.
  virtual void project_backward(const StepContext& ctx, const Matrix<const T>& x,
                                const Matrix<const T>& d_z, const Matrix<T>& d_x) const;

  /// Sees each row's expert output (n, d) and its slot, for routers that learn from outputs; in
  /// training only, and not under replay.
  virtual void after_experts(const StepContext&, const Routing<T>&, const Matrix<const T>&,
                             const Vector<const int>& /*slot_of_row*/) {}
  /// Once per optimizer step, after gradients: biases, lambdas, baselines. Collective: whatever it
  /// gathered on this rank alone it all-reduces here.
  virtual void end_step(const StepContext&, const RouterStatistics&) {}
  /// Instead of end_step, when the update is not made: forgets what this step gathered.
  virtual void discard_step(const ExecutionSpace&) {}

  /// What a study needs to enumerate this router's draws; `objective` none when it draws nothing.
  virtual EstimatorInfo estimator() const { return {}; }

  const RouterPlace& place() const { return place_; }

 protected:
  /// Registers NAME.weight (E', d), normal with deviation 1/sqrt(d), when `rows` > 0.
  Router(RouterPlace place, ParameterStore<T>& store, int rows);

  PhiloxStream stream(const StepContext& ctx, Purpose purpose) const {
    return PhiloxStream(ctx.seed, purpose, ctx.step, static_cast<std::uint32_t>(place_.layer),
                        ctx.replica);
  }

  RouterPlace place_;
  ParameterStore<T>* store_;
  ParameterHandle weight_;
};

}  // namespace kokomoe
