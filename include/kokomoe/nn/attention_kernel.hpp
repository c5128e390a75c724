// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/step_context.hpp"

namespace kokomoe {

/// Queries, keys and values of one attention: rows of wider matrices, `heads` heads of `width`
/// channels from the given columns on. Sequence b has queries [query_offsets[b],
/// query_offsets[b+1]) and keys [key_offsets[b], key_offsets[b] + key_count[b]); an empty
/// key_count means that keys lie like queries. The query at position p sees keys 0..p of its
/// sequence when `causal`, else all.
template <class T>
struct AttentionInput {
  Matrix<const T> query, key, value;
  int query_column = 0, key_column = 0, value_column = 0;
  Vector<const int> query_offsets, key_offsets, key_count;
  Vector<const int> position;  ///< (queries)
  int sequences = 0;
  int max_queries = 0;  ///< most queries of a sequence
  int heads = 0;
  int width = 0;
  bool causal = true;
  double dropout = 0;  ///< on the probabilities; drawn by (query token, head, key)
  int layer = 0, lane = 0;  ///< count in the dropout draws
};

/// out (queries, heads * width) = softmax(q k^T / sqrt(width)) v, block by block with a running
/// maximum, so that nothing of size queries x keys exists; log_sum (queries, heads) is what
/// backward needs to recompute the probabilities (Dao et al., arXiv 2205.14135). Finite values of
/// keys that a query does not see have no effect on it; NaN and infinite ones may reach the queries
/// of their own sequence.
template <class T>
void attention_forward(const StepContext& ctx, const AttentionInput<T>& input, const Matrix<T>& out,
                       const Matrix<T>& log_sum);

/// WRITES the gradients into d_query, d_key and d_value at the same columns as in `input` (they may
/// be one matrix). Sequences and heads in parallel, blocks in order: no atomics.
template <class T>
void attention_backward(const StepContext& ctx, const AttentionInput<T>& input,
                        const Matrix<const T>& out, const Matrix<const T>& log_sum,
                        const Matrix<const T>& d_out, const Matrix<T>& d_query,
                        const Matrix<T>& d_key, const Matrix<T>& d_value);

}  // namespace kokomoe
