// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/sharded_experts.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/combine.hpp"
#include "kokomoe/moe/row_travel.hpp"

#include <string>

namespace kokomoe {

namespace {

using Way = ExpertExchange::Way;

/// (rows) the sequence of each row of a plan, by its index in the global batch.
Vector<std::uint32_t> sequences_of_rows(const StepContext& ctx, const DispatchPlan& plan) {
  const auto rows = static_cast<std::size_t>(plan.rows());
  const Vector<std::uint32_t> result = ctx.saved->vector<std::uint32_t>(rows);
  const Vector<const std::uint32_t> sequence = ctx.tokens.sequence_index;
  const Vector<const int> token = plan.token_of_row;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::sequence_of_row"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, rows),
      KOKKOS_LAMBDA(const std::size_t r) { result(r) = sequence(token(r)); });
  return result;
}

/// Rows of tokens in the order of the plan.
template <class T>
PickedRows<T> in_order(const DispatchPlan& plan, const Matrix<const T>& x,
                       const Vector<const T>& factor = {}) {
  PickedRows<T> rows(
      x, Vector<const int>(plan.token_of_row.data(), static_cast<std::size_t>(plan.rows())));
  rows.factor = factor;
  return rows;
}

template <class T>
Matrix<T> gathered(const StepContext& ctx, const DispatchPlan& plan, const Matrix<const T>& x) {
  const Matrix<T> rows =
      ctx.scratch->template matrix<T>(static_cast<std::size_t>(plan.rows()), x.extent(1));
  gather_rows<T>(ctx.space, plan, x, rows);
  return rows;
}

}  // namespace

template <class T>
ExpertExchange& ShardedExperts<T>::exchange(const StepContext& ctx) const {
  if (ctx.exchange == nullptr || !ctx.exchange->sharded())
    fail("MoeLayer", "this rank owns experts " + std::to_string(owned_.begin) + " to " +
                         std::to_string(owned_.end) + " of " + std::to_string(owned_.total) +
                         ", and the context has no exchange to reach the others");
  const Communicator& group = ctx.exchange->group();
  const ExpertRange own = owned_experts(owned_.total, group.rank(), group.size());
  if (own.begin != owned_.begin || own.end != owned_.end)
    fail("MoeLayer", "the store holds experts " + std::to_string(owned_.begin) + " to " +
                         std::to_string(owned_.end) + " of " + std::to_string(owned_.total) +
                         ", the exchange's rank " + std::to_string(group.rank()) + " of " +
                         std::to_string(group.size()) + " would own others");
  return *ctx.exchange;
}

template <class T>
void ShardedExperts<T>::forward(const StepContext& ctx, const DispatchPlan& plan,
                                const Matrix<const T>& x, const Matrix<T>& out, Saved& saved,
                                const std::function<void()>& beside) const {
  const ExecutionSpace& space = ctx.space;
  const std::size_t d = x.extent(1);
  saved.sharded = is_sharded(ctx);
  if (!saved.sharded) {
    RowArithmetic how{ctx.layout_free, {}, ctx.round_kept};
    if (ctx.layout_free && ctx.training) {
      saved.sequence_of_row = sequences_of_rows(ctx, plan);
      how.segments = segments_of_rows(space, *ctx.saved, plan.expert_of_row, saved.sequence_of_row);
    }
    experts_.forward(space, *ctx.saved, *ctx.scratch, in_order(plan, x), plan.offsets_on_host(),
                     plan.expert_of_row, out, saved.experts, how);
    if (beside) beside();
    return;
  }
  const Region region(KOKOMOE_LABEL("moe::exchange"));
  ExpertExchange& ranks = exchange(ctx);
  ExchangePlan& way = saved.exchange;
  ranks.plan(space, *ctx.saved, plan.offsets_on_host(), d * sizeof(T), way);
  const auto arrived = static_cast<std::size_t>(way.rows_received());
  // Never rounded: the same rows on one rank are not either.
  const Matrix<T> at_experts = ctx.saved->template matrix<T>(arrived, d);
  saved.expert_of_row = ctx.saved->template vector<int>(arrived);
  local_expert_of_rows(space, way, saved.expert_of_row);
  experts_.begin(*ctx.saved, at_experts, {ctx.layout_free, {}, ctx.round_kept}, saved.experts);

  ArenaScope scope(*ctx.scratch);
  const Matrix<T> rows = gathered(ctx, plan, x);
  const Matrix<T> results = ctx.scratch->template matrix<T>(arrived, d);
  const Matrix<T> unsorted = RowTravel<T>::unsorted_rows(*ctx.scratch, way, d);
  RowTravel<T> there(space, ranks, way, rows, at_experts, unsorted);
  RowTravel<T> back(space, ranks, way, out, results, unsorted);
  // Gradients of the experts are summed by sequence: whose a row is travels with it.
  const bool by_sequence = ctx.layout_free && ctx.training;
  const Vector<std::uint32_t> own =
      by_sequence ? sequences_of_rows(ctx, plan) : Vector<std::uint32_t>();
  saved.sequence_of_row = ctx.saved->template vector<std::uint32_t>(by_sequence ? arrived : 0);
  const auto column = [](const Vector<std::uint32_t>& vector) {
    return Matrix<std::uint32_t>(vector.data(), vector.extent(0), 1);
  };
  RowTravel<std::uint32_t> sequences(
      space, ranks, way, column(own), column(saved.sequence_of_row),
      by_sequence ? RowTravel<std::uint32_t>::unsorted_rows(*ctx.scratch, way, 1)
                  : Matrix<std::uint32_t>());
  const auto start = [&](int chunk, bool wait) {
    if (by_sequence) sequences.start(chunk, Way::to_experts, false);
    there.start(chunk, Way::to_experts, wait);
  };
  const bool alone = way.chunks == 1;
  start(0, alone && !beside);
  if (beside) beside();
  for (int c = 0; c < way.chunks; ++c) {
    if (c + 1 < way.chunks) start(c + 1, false);
    if (by_sequence) sequences.finish(c, Way::to_experts);
    there.finish(c, Way::to_experts);
    experts_.forward_part(space, *ctx.scratch, {way.first_expert(c), way.first_expert(c + 1)},
                          way.expert_offsets, saved.expert_of_row, results, saved.experts);
    ranks.progress();
    back.start(c, Way::back, alone);
  }
  for (int c = 0; c < way.chunks; ++c) back.finish(c, Way::back);
  if (by_sequence)
    saved.experts.how.segments =
        segments_of_rows(space, *ctx.saved, saved.expert_of_row, saved.sequence_of_row);
}

template <class T>
void ShardedExperts<T>::backward(const StepContext& ctx, const DispatchPlan& plan,
                                 const Saved& saved, const PickedRows<T>& d_out,
                                 const Vector<const T>& row_weight, const Matrix<T>& d_rows,
                                 const Vector<T>& d_row_weight, const Vector<T>& d_factor,
                                 const std::function<void()>& beside) const {
  const ExecutionSpace& space = ctx.space;
  if (!is_sharded(ctx)) {
    experts_.backward(space, *ctx.scratch, saved.experts, plan.offsets_on_host(),
                      plan.expert_of_row, in_order(plan, d_out.from, d_out.factor), row_weight,
                      d_rows, d_row_weight, d_factor);
    if (beside) beside();
    return;
  }
  const Region region(KOKOMOE_LABEL("moe::exchange"));
  ExpertExchange& ranks = exchange(ctx);
  const ExchangePlan& way = saved.exchange;
  const auto arrived = static_cast<std::size_t>(way.rows_received());
  const std::size_t rows = d_rows.extent(0), d = d_out.columns();
  ArenaScope scope(*ctx.scratch);
  const Matrix<T> sent = gathered(ctx, plan, d_out.from);
  const Matrix<T> gradients = ctx.scratch->template matrix<T>(arrived, d);
  const Matrix<T> results = ctx.scratch->template matrix<T>(arrived, d);
  const Vector<T> weights = ctx.scratch->template vector<T>(arrived);
  const Vector<T> dots = ctx.scratch->template vector<T>(arrived);
  const Matrix<T> unsorted = RowTravel<T>::unsorted_rows(*ctx.scratch, way, d);
  const Matrix<T> unsorted_numbers = RowTravel<T>::unsorted_rows(*ctx.scratch, way, 1);
  const auto column = [](const auto& vector, std::size_t size) {
    return Matrix<T>(const_cast<T*>(vector.data()), size, 1);
  };
  // What is sent is only read: the exchange has one type for both directions.
  RowTravel<T> there(space, ranks, way, sent, gradients, unsorted);
  RowTravel<T> there_too(space, ranks, way, column(row_weight, rows), column(weights, arrived),
                         unsorted_numbers);
  RowTravel<T> back(space, ranks, way, d_rows, results, unsorted);
  RowTravel<T> back_too(space, ranks, way, column(d_row_weight, rows), column(dots, arrived),
                        unsorted_numbers);
  PickedRows<T> arrived_rows = gradients;  // every rank has the factor
  arrived_rows.factor = d_out.factor;
  const auto adds = experts_.begin_backward();
  const bool alone = way.chunks == 1;
  there_too.start(0, Way::to_experts, false);
  there.start(0, Way::to_experts, alone && !beside);
  if (beside) beside();
  for (int c = 0; c < way.chunks; ++c) {
    if (c + 1 < way.chunks) {
      there_too.start(c + 1, Way::to_experts, false);
      there.start(c + 1, Way::to_experts, false);
    }
    there_too.finish(c, Way::to_experts);
    there.finish(c, Way::to_experts);
    experts_.backward_part(space, *ctx.scratch, {way.first_expert(c), way.first_expert(c + 1)},
                           adds, saved.experts, way.expert_offsets, saved.expert_of_row,
                           arrived_rows, weights, results, dots, d_factor);
    ranks.progress();
    back_too.start(c, Way::back, false);
    back.start(c, Way::back, alone);
  }
  for (int c = 0; c < way.chunks; ++c) {
    back_too.finish(c, Way::back);
    back.finish(c, Way::back);
  }
}

template class ShardedExperts<float>;
template class ShardedExperts<double>;

}  // namespace kokomoe
