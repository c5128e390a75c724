// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/nn/attention_kernel.hpp"

#include "kokomoe/core/error.hpp"
#include "nn/attention_teams.hpp"
#include "nn/attention_tiles.hpp"

namespace kokomoe {

namespace {

template <class T>
void check(const char* where, const AttentionInput<T>& in, const Matrix<const T>& out,
           const Matrix<const T>& log_sum) {
  require_shape(where, "out", out, in.query.extent(0),
                static_cast<std::size_t>(in.heads * in.width));
  require_shape(where, "log_sum", log_sum, in.query.extent(0), static_cast<std::size_t>(in.heads));
}

}  // namespace

template <class T>
void attention_forward(const StepContext& ctx, const AttentionInput<T>& input, const Matrix<T>& out,
                       const Matrix<T>& log_sum) {
  check<T>("attention_forward", input, out, log_sum);
#if KOKOMOE_HOST_TILES
  detail::attention_forward_tiles<T>(ctx, input, out, log_sum);
#else
  detail::attention_forward_teams<T>(ctx, input, out, log_sum);
#endif
}

template <class T>
void attention_backward(const StepContext& ctx, const AttentionInput<T>& input,
                        const Matrix<const T>& out, const Matrix<const T>& log_sum,
                        const Matrix<const T>& d_out, const Matrix<T>& d_query,
                        const Matrix<T>& d_key, const Matrix<T>& d_value) {
  check<T>("attention_backward", input, out, log_sum);
  require_shape("attention_backward", "d_out", d_out, out.extent(0), out.extent(1));
#if KOKOMOE_HOST_TILES
  detail::attention_backward_tiles<T>(ctx, input, out, log_sum, d_out, d_query, d_key, d_value);
#else
  detail::attention_backward_teams<T>(ctx, input, out, log_sum, d_out, d_query, d_key, d_value);
#endif
}

#define KOKOMOE_INSTANTIATE(T)                                                                    \
  template void attention_forward<T>(const StepContext&, const AttentionInput<T>&,                \
                                     const Matrix<T>&, const Matrix<T>&);                         \
  template void attention_backward<T>(const StepContext&, const AttentionInput<T>&,               \
                                      const Matrix<const T>&, const Matrix<const T>&,             \
                                      const Matrix<const T>&, const Matrix<T>&, const Matrix<T>&, \
                                      const Matrix<T>&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
