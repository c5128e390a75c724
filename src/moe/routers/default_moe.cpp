// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/default_moe.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/gemm.hpp"
#include "kokomoe/core/row_kernels.hpp"

namespace kokomoe {

namespace {

/// values(t, e) = 0 where an expert ran for token t.
template <class T>
void keep_missing(const ExecutionSpace& space, const Routing<T>& routing,
                  const Matrix<T>& values) {
  const int k = routing.slots_per_token;
  const Vector<const int> expert = routing.expert;
  const Vector<const unsigned char> dropped = routing.dropped;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::default_missing"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, routing.tokens), KOKKOS_LAMBDA(const int t) {
        for (int n = t * k; n < (t + 1) * k; ++n)
          if (dropped.extent(0) == 0 || dropped(n) == 0) values(t, expert(n)) = T(0);
      });
}

template <class T>
void add_to(const ExecutionSpace& space, const Matrix<const T>& from, const Matrix<T>& to) {
  const Vector<const T> a(from.data(), from.size());
  const Vector<T> b(to.data(), to.size());
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::default_add"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, b.extent(0)),
      KOKKOS_LAMBDA(const std::size_t i) { b(i) += a(i); });
}

/// The first row of `expert` or of a later one, among rows sorted by expert.
KOKKOS_INLINE_FUNCTION int first_row(const Vector<const int>& expert_of_slot,
                                     const Vector<const int>& slot_of_row, int rows, int expert) {
  int low = 0, high = rows;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (expert_of_slot(slot_of_row(middle)) < expert)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

}  // namespace

template <class T>
RouterInfo DefaultMoeRouter<T>::info() {
  RouterInfo info{"default_moe",
                  "the k largest logits; experts that do not run stand in by their mean output",
                  "Panda et al. 2025, arXiv 2504.12463",
                  {{"decay", 0.99, "of the moving average of an expert's outputs, for each update", 0,
                    1}}};
  info.takes_k = info.takes_capacity = true;
  info.layout_free = false;
  return info;
}

template <class T>
DefaultMoeRouter<T>::DefaultMoeRouter(const RouterPlace& place, const RouterOptions& options,
                                      ParameterStore<T>& store)
    : Router<T>(place, store, place.experts),
      mean_output_(store.add(
          {place.name + ".mean_output",
           {static_cast<std::size_t>(place.experts), static_cast<std::size_t>(place.d_model)},
           Initializer::constant(0),
           false,
           false,
           true,
           {"expert", "channel"}})),
      decay_(options.real("decay")),
      rule_{place.experts, place.k, true, detail::GroupLimit(place.experts)},
      gathered_("kokomoe::moe::default_moe::gathered", static_cast<std::size_t>(place.experts),
                static_cast<std::size_t>(place.d_model) + 1) {}

template <class T>
Routing<T> DefaultMoeRouter<T>::route_logits(const StepContext& ctx, const Matrix<const T>& z,
                                             const Routing<T>* replay) const {
  const detail::Jitter<T> none(ctx, PhiloxStream(), 0);
  return detail::route_top_k<T>(ctx, "DefaultMoeRouter", rule_, none, z, replay);
}

template <class T>
void DefaultMoeRouter<T>::add_output(const StepContext& ctx, const Routing<T>& routing,
                                     const Matrix<T>& y) const {
  ArenaScope scope(*ctx.scratch);
  const Matrix<T> p = ctx.scratch->template matrix<T>(routing.probability.extent(0),
                                                      routing.probability.extent(1));
  Kokkos::deep_copy(ctx.space, p, routing.probability);
  keep_missing<T>(ctx.space, routing, p);
  gemm<T>(ctx.space, Transpose::no, Transpose::no, T(1), p, this->store_->value(mean_output_), T(1),
          y);
}

template <class T>
void DefaultMoeRouter<T>::after_experts(const StepContext& ctx, const Routing<T>& routing,
                                        const Matrix<const T>& out,
                                        const Vector<const int>& slot_of_row) {
  const int rows = static_cast<int>(out.extent(0)), d = this->place_.d_model;
  const Vector<const int> expert = routing.expert;
  const Matrix<double> gathered = gathered_;
  // Each expert's rows one after the other, so that the order is always the same.
  for_each_row(
      KOKOMOE_LABEL("moe::router::default_gather"), ctx.space, this->place_.experts,
      KOKKOS_LAMBDA(const Row& row) {
        const int e = row.index();
        const int begin = first_row(expert, slot_of_row, rows, e);
        const int end = first_row(expert, slot_of_row, rows, e + 1);
        double* const sums = &gathered(e, 0);
        for (int r = begin; r < end; ++r) {
          const T* const from = &out(r, 0);
          row.each(d, [&](const int j) { sums[j] += static_cast<double>(from[j]); });
        }
        row.once([&]() { sums[d] += end - begin; });
      });
}

template <class T>
void DefaultMoeRouter<T>::logits_backward(const StepContext& ctx, const Matrix<const T>&,
                                          const Routing<T>& routing,
                                          const RouterFeedback<T>& feedback,
                                          const Matrix<T>& d_z) const {
  const auto experts = static_cast<std::size_t>(routing.experts);
  require_shape("DefaultMoeRouter", "d_output", feedback.d_output,
                static_cast<std::size_t>(routing.tokens),
                static_cast<std::size_t>(this->place_.d_model));
  ArenaScope scope(*ctx.scratch);
  const Matrix<T> d_probability =
      ctx.scratch->template matrix<T>(static_cast<std::size_t>(routing.tokens), experts);
  gemm<T>(ctx.space, Transpose::no, Transpose::yes, T(1), feedback.d_output,
          this->store_->value(mean_output_), T(0), d_probability);
  keep_missing<T>(ctx.space, routing, d_probability);
  if (feedback.d_probability.extent(0) != 0)
    add_to<T>(ctx.space, feedback.d_probability, d_probability);
  const detail::Jitter<T> none(ctx, PhiloxStream(), 0);
  detail::top_k_backward<T>(ctx, rule_, none, routing, feedback.d_weight, d_probability, d_z);
}

template <class T>
void DefaultMoeRouter<T>::end_step(const StepContext& ctx, const RouterStatistics&) {
  const Matrix<double> gathered = gathered_;
  ctx.communicator->all_reduce_sum(ctx.space, Vector<double>(gathered.data(), gathered.size()));
  const int d = this->place_.d_model;
  const double decay = decay_;
  const Matrix<T> table = this->store_->value(mean_output_);
  for_each_row(
      KOKOMOE_LABEL("moe::router::default_move"), ctx.space, this->place_.experts,
      KOKKOS_LAMBDA(const Row& row) {
        double* const sums = &gathered(row.index(), 0);
        T* const mean = &table(row.index(), 0);
        const double count = sums[d];
        // Also where there is nothing to do: every thread has read the count before it is cleared.
        row.each(d, [&](const int j) {
          if (count > 0)
            mean[j] = static_cast<T>(decay * static_cast<double>(mean[j]) +
                                     (1 - decay) * (sums[j] / count));
        });
        row.each(d + 1, [&](const int j) { sums[j] = 0; });
      });
}

template class DefaultMoeRouter<float>;
template class DefaultMoeRouter<double>;

}  // namespace kokomoe
