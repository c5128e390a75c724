// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/parameters/products.hpp"

#include "kokomoe/core/column_sum.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_gemm.hpp"

namespace kokomoe {

namespace {

template <class T>
void require_same(const StepContext& ctx, const ParameterStore<T>& store) {
  if (ctx.layout_free != store.sums_exactly())
    fail("StepContext", "the step is layout-free, or its parameters sum exactly, but not both");
}

}  // namespace

Segments segments_of(const StepContext& ctx) {
  return {ctx.tokens.sequence_offsets, ctx.tokens.sequences};
}

template <class T>
void multiply(const StepContext& ctx, Transpose transpose_w, const Matrix<const T>& x,
              const Matrix<const T>& w, bool accumulate, const Matrix<T>& y) {
  if (ctx.layout_free)
    row_gemm<T>(ctx.space, *ctx.scratch, transpose_w, x, w, accumulate, y);
  else
    gemm<T>(ctx.space, Transpose::no, transpose_w, T(1), x, w, accumulate ? T(1) : T(0), y);
}

template <class T>
void add_weight_gradient(const StepContext& ctx, const Matrix<const T>& dy,
                         const Matrix<const T>& x, ParameterStore<T>& store,
                         ParameterHandle weight) {
  require_same(ctx, store);
  if (ctx.layout_free) {
    const bool accumulate = store.adds_exactly(weight);
    exact_product<T>(ctx.space, *ctx.scratch, dy, x, segments_of(ctx), 0, accumulate,
                     store.exact_gradient(weight));
  } else {
    gemm<T>(ctx.space, Transpose::yes, Transpose::no, T(1), dy, x, store.gradient_beta(weight),
            store.gradient(weight));
  }
}

template <class T>
void add_column_gradient(const StepContext& ctx, const Matrix<const T>& a, const Matrix<const T>& b,
                         ParameterStore<T>& store, ParameterHandle parameter) {
  require_same(ctx, store);
  if (ctx.layout_free) {
    const int offsets[] = {0, static_cast<int>(a.extent(0))};
    const bool accumulate = store.adds_exactly(parameter);
    exact_column_sum<T>(ctx.space, *ctx.scratch, a, b, Vector<const T>(), segments_of(ctx), offsets,
                        accumulate, store.exact_gradient(parameter));
  } else {
    column_sum<T>(ctx.space, *ctx.scratch, a, b, Vector<const T>(), store.gradient_beta(parameter),
                  store.gradient_vector(parameter));
  }
}

#define KOKOMOE_INSTANTIATE(T)                                                     \
  template void multiply<T>(const StepContext&, Transpose, const Matrix<const T>&, \
                            const Matrix<const T>&, bool, const Matrix<T>&);       \
  template void add_weight_gradient<T>(const StepContext&, const Matrix<const T>&, \
                                       const Matrix<const T>&, ParameterStore<T>&, \
                                       ParameterHandle);                           \
  template void add_column_gradient<T>(const StepContext&, const Matrix<const T>&, \
                                       const Matrix<const T>&, ParameterStore<T>&, \
                                       ParameterHandle);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
