// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/reinforce.hpp"

#include "kokomoe/core/error.hpp"

namespace kokomoe {

namespace {

constexpr detail::SampledGateRule rule{
    .name = "reinforce",
    .summary = "sampled experts; the router gradient by the score function of the sequence's loss",
    .paper = "Williams 1992, doi 10.1007/BF00992696",
    .grad_factor = 1};

}  // namespace

template <class T>
RouterInfo ReinforceRouter<T>::info() {
  RouterInfo info = detail::sampled_gate_info(rule);
  info.options.push_back({"baseline_decay", 0.99,
                          "of the running mean of the sequences' losses, which is subtracted", 0,
                          1});
  info.layout_free = false;
  return info;
}

template <class T>
ReinforceRouter<T>::ReinforceRouter(const RouterPlace& place, const RouterOptions& options,
                                    ParameterStore<T>& store)
    : detail::SampledGateRouter<T>(rule, place, options, store),
      decay_(options.real("baseline_decay")),
      baseline_(store.add({place.name + ".baseline", {2}, Initializer::constant(0), false, false,
                           true, {"moment"}})),
      gathered_("kokomoe::moe::reinforce", 2) {}

template <class T>
void ReinforceRouter<T>::logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                                         const Routing<T>& routing,
                                         const RouterFeedback<T>& feedback,
                                         const Matrix<T>& d_z) const {
  const int tokens = routing.tokens, sequences = ctx.tokens.sequences;
  if (tokens == 0) return;
  const Vector<const double> loss = ctx.sequence_loss;
  if (loss.extent(0) != static_cast<std::size_t>(sequences))
    fail("ReinforceRouter", "needs the loss of each of the " + std::to_string(sequences) +
                                " sequences in the context, which has " +
                                std::to_string(loss.extent(0)));
  ArenaScope scope(*ctx.scratch);
  const Vector<T> score = ctx.scratch->template vector<T>(static_cast<std::size_t>(tokens));
  const Vector<const int> offsets = ctx.tokens.sequence_offsets;
  const Vector<const T> baseline = this->store_->value_vector(baseline_);
  const double scale = ctx.loss_scale, factor = this->grad_factor();
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::reinforce"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, tokens), KOKKOS_LAMBDA(const int t) {
        int low = 0, high = sequences - 1;  // the last sequence that begins at or before t
        while (low < high) {
          const int middle = (low + high + 1) / 2;
          if (offsets(middle) <= t)
            low = middle;
          else
            high = middle - 1;
        }
        score(t) = static_cast<T>(factor * (scale * loss(low) - static_cast<double>(baseline(0))));
      });
  // One thread: a sum in a fixed order over what is few.
  const Vector<double> gathered = gathered_;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::reinforce_gather"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, 1), KOKKOS_LAMBDA(const int) {
        for (int b = 0; b < sequences; ++b) {
          if (offsets(b + 1) == offsets(b)) continue;
          gathered(0) += scale * loss(b);
          gathered(1) += 1;
        }
      });
  this->backward(ctx, z, routing, feedback, score, d_z);
}

template <class T>
void ReinforceRouter<T>::end_step(const StepContext& ctx, const RouterStatistics&) {
  ctx.communicator->all_reduce_sum(ctx.space, gathered_);
  const Vector<double> gathered = gathered_;
  const Vector<T> baseline = this->store_->value_vector(baseline_);
  const double decay = decay_;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::reinforce_baseline"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, 1), KOKKOS_LAMBDA(const int) {
        if (gathered(1) > 0) {
          const double mean = gathered(0) / gathered(1);
          const double old = baseline(1) != T(0) ? static_cast<double>(baseline(0)) : mean;
          baseline(0) = static_cast<T>(decay * old + (1 - decay) * mean);
          baseline(1) = 1;
        }
        gathered(0) = gathered(1) = 0;
      });
}

template <class T>
EstimatorInfo ReinforceRouter<T>::estimator() const {
  EstimatorInfo info = detail::SampledGateRouter<T>::estimator();
  info.needs_sequence_loss = true;
  return info;
}

template class ReinforceRouter<float>;
template class ReinforceRouter<double>;

}  // namespace kokomoe
