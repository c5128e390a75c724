// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/nn/embedding.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/core/segment_sums.hpp"
#include "kokomoe/core/stable_sort.hpp"

namespace kokomoe {

template <class T>
Embedding<T>::Embedding(int rows, int d_model, double deviation, ParameterStore<T>& store,
                        const std::string& name, const std::string& row_axis)
    : rows_(rows), store_(&store) {
  weight_ = store.add({name + ".weight",
                       {static_cast<std::size_t>(rows), static_cast<std::size_t>(d_model)},
                       Initializer::normal(deviation),
                       true,
                       false,
                       false,
                       {row_axis, "channel"}});
}

template <class T>
void Embedding<T>::forward(const StepContext& ctx, const Vector<const int>& index,
                           const Matrix<T>& y, bool accumulate) const {
  const Matrix<const T> table = store_->value(weight_);
  require_shape("Embedding::forward", "y", y, index.extent(0), table.extent(1));
  const int columns = static_cast<int>(y.extent(1));
  for_each_row(
      KOKOMOE_LABEL("nn::embedding"), ctx.space, static_cast<int>(y.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        const T* const from = &table(index(row.index()), 0);
        T* const to = &y(row.index(), 0);
        if (accumulate)
          row.each(columns, [&](const int j) { to[j] += from[j]; });
        else
          row.each(columns, [&](const int j) { to[j] = from[j]; });
      });
}

template <class T>
void Embedding<T>::backward(const StepContext& ctx, const Vector<const int>& index,
                            const Matrix<const T>& dy) const {
  const Region region(KOKOMOE_LABEL("nn::embedding_backward"));
  const Matrix<T> gradient = store_->gradient(weight_);
  require_shape("Embedding::backward", "dy", dy, index.extent(0), gradient.extent(1));
  const int columns = static_cast<int>(dy.extent(1));
  ArenaScope scope(*ctx.scratch);
  const Vector<int> offsets = ctx.scratch->vector<int>(static_cast<std::size_t>(rows_) + 1);
  const Vector<int> order = ctx.scratch->vector<int>(index.extent(0));
  stable_sort(ctx.space, *ctx.scratch, index, rows_, offsets, order);
  if (ctx.layout_free) {
    const bool accumulate = store_->adds_exactly(weight_);
    exact_scatter_sum<T>(ctx.space, dy, offsets, order, ctx.tokens.sequence_index, accumulate,
                         store_->exact_gradient(weight_));
    return;
  }
  const bool overwrite = store_->gradient_beta(weight_) == T(0);
  for_each_row(
      KOKOMOE_LABEL("nn::embedding_backward"), ctx.space, rows_, KOKKOS_LAMBDA(const Row& row) {
        const int r = row.index();
        T* const to = &gradient(r, 0);
        if (overwrite) row.each(columns, [&](const int j) { to[j] = T(0); });
        for (int i = offsets(r); i < offsets(r + 1); ++i) {
          const T* const from = &dy(order(i), 0);
          row.each(columns, [&](const int j) { to[j] += from[j]; });
        }
      });
}

template class Embedding<float>;
template class Embedding<double>;

}  // namespace kokomoe
