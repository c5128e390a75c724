// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/dispatch_plan.hpp"
#include "kokomoe/moe/experts.hpp"
#include "kokomoe/parallel/expert_exchange.hpp"
#include "kokomoe/parallel/step_context.hpp"

#include <functional>

namespace kokomoe {

/// Experts on this rank, or in blocks over the ranks of an expert group: rows go to the owners of
/// their experts and the results come back. The result does not depend on the number of parts
/// that an exchange has, nor on its path.
template <class T>
class ShardedExperts {
 public:
  struct Saved {
    ExchangePlan exchange;
    typename Experts<T>::Saved experts;
    Vector<int> expert_of_row;  ///< (arrived rows) local expert
    /// (rows at the experts) global index of the sequence; empty unless the step is layout-free
    Vector<std::uint32_t> sequence_of_row;
    bool sharded = false;

    /// See MoeLayer::Saved.
    void set_input(const Matrix<const T>& x) {
      if (!sharded) experts.set_input(x);
    }
  };

  ShardedExperts(const ExpertsConfig& config, ParameterStore<T>& store, const std::string& name)
      : experts_(config, store, name), owned_(store.experts(config.experts)) {}

  /// True when rows leave this rank.
  bool is_sharded(const StepContext& ctx) const {
    return !owned_.all() || (ctx.exchange != nullptr && ctx.exchange->sharded());
  }

  /// `x` (T, d) the tokens' rows, which must stay until backward; `out` (plan.rows(), d) the
  /// experts' outputs in the plan's order. `beside`, if any, is run once, while rows are on their
  /// way. With sharded experts collective over ctx.exchange's group; throws Error when the context
  /// has no such exchange.
  void forward(const StepContext& ctx, const DispatchPlan& plan, const Matrix<const T>& x,
               const Matrix<T>& out, Saved& saved, const std::function<void()>& beside) const;

  /// See Experts::backward; `d_out` (T, d) are all tokens in their order, all else by row, in the
  /// plan's order. To d_factor every rank adds what its own experts give.
  void backward(const StepContext& ctx, const DispatchPlan& plan, const Saved& saved,
                const PickedRows<T>& d_out, const Vector<const T>& row_weight,
                const Matrix<T>& d_rows, const Vector<T>& d_row_weight, const Vector<T>& d_factor,
                const std::function<void()>& beside) const;
  bool sums_factor(bool layout_free) const { return experts_.sums_factor(layout_free); }

  const ExpertRange& owned() const { return owned_; }

 private:
  ExpertExchange& exchange(const StepContext& ctx) const;

  Experts<T> experts_;
  ExpertRange owned_;
};

}  // namespace kokomoe
