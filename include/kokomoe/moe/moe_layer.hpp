// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/auxiliary_loss.hpp"
#include "kokomoe/moe/dispatch_plan.hpp"
#include "kokomoe/moe/moe_config.hpp"
#include "kokomoe/moe/sharded_experts.hpp"

#include <array>
#include <memory>
#include <optional>
#include <string>

namespace kokomoe {

/// One Mixture-of-Experts layer on packed tokens: y = omega (.) sum over assignments of
/// weight E_expert(x), plus the shared experts, which every token sees. Register with a
/// ParameterStore, allocate that, then forward and backward. The layer keeps nothing of a step:
/// `Saved` belongs to the caller (reuse it between steps: it holds the only host memory), its
/// arrays to the context's `saved` arena.
template <class T>
class MoeLayer {
 public:
  struct Saved {
    // A copy would share the host's offsets with its original.
    Saved() = default;
    Saved(Saved&&) = default;
    Saved& operator=(Saved&&) = default;

    Matrix<const T> x;
    Matrix<T> logits;
    Routing<T> routing;
    DispatchPlan plan;
    typename ShardedExperts<T>::Saved experts;
    bool keeps_mixed = false;
    Matrix<T> mixed;  ///< (T, d) output before the gain, where it is kept for backward
    /// (E) assignments counted: over all ranks, or over this one when the scope is micro_batch
    Vector<double> counts;
    Matrix<int> group_counts;  ///< (B, E) the same of each sequence, when the scope is that
    typename Experts<T>::Saved shared_experts;
    std::array<int, 2> shared_rows{};  ///< row offsets of their one group
    /// Forward's x, in other memory: before backward where it was not kept.
    void set_input(const Matrix<const T>& input) {
      x = input;
      experts.set_input(input);
      shared_experts.set_input(input);
    }
    double seconds_router = 0, seconds_dispatch = 0, seconds_experts = 0, seconds_combine = 0;
  };

  /// Tensors: NAME.router.*, NAME.experts.*, NAME.shared.*, NAME.output_gain. `layer` counts in the
  /// random numbers. Throws InputError when router, options, k or losses do not go together.
  MoeLayer(const MoeConfig& config, int layer, ParameterStore<T>& store, const std::string& name);

  /// x, y (T, d), not the same memory: backward reads x. Collective in training, and always where
  /// experts are sharded (ctx.exchange): every rank calls it, with no tokens too. `statistics`:
  /// LoadStatistics::width(E) doubles of local sums, or empty. `replay`: a Routing recorded before
  /// (see Routing::clone) to follow instead of drawing.
  void forward(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y, Saved& saved,
               const Vector<double>& statistics = {}, const Routing<T>* replay = nullptr) const;

  /// dy (T, d) -> writes dx (T, d), not the same memory; needs ctx.update_tokens. Parameter
  /// gradients go to the store. Includes the gradients of the auxiliary losses.
  void backward(const StepContext& ctx, Saved& saved, const Matrix<const T>& dy,
                const Matrix<T>& dx) const;

  void end_step(const StepContext& ctx, const RouterStatistics& statistics) {
    router_->end_step(ctx, statistics);
  }
  /// Instead, when the update is not made.
  void discard_step(const ExecutionSpace& space) { router_->discard_step(space); }

  const MoeConfig& config() const { return config_; }
  /// The experts that this rank owns.
  const ExpertRange& owned() const { return experts_.owned(); }
  const Router<T>& router() const { return *router_; }

  /// Fills the seconds of Saved, at the price of a fence around each part. For benchmarks.
  void time_parts(bool on) { timed_ = on; }

 private:
  /// The experts and the sum of what they give, from saved.x and saved.routing. `first_time`: not
  /// for backward.
  void mix(const StepContext& ctx, Saved& saved, const Matrix<T>& y, bool first_time) const;

  MoeConfig config_;
  ParameterStore<T>* store_;
  std::unique_ptr<Router<T>> router_;
  ShardedExperts<T> experts_;
  std::optional<Experts<T>> shared_;
  ParameterHandle gain_;
  bool limited_ = false;     ///< a capacity drops assignments
  bool over_ranks_ = false;  ///< routing groups hold other ranks' tokens
  bool timed_ = false;
};

}  // namespace kokomoe
