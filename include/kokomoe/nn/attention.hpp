// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/kept_rows.hpp"
#include "kokomoe/nn/attention_kernel.hpp"
#include "kokomoe/nn/linear.hpp"
#include "kokomoe/nn/rotary.hpp"

#include <memory>
#include <string>

namespace kokomoe {

struct AttentionConfig {
  int d_model = 0;
  int heads = 1;
  bool bias = false;
  double dropout = 0;       ///< on the attention probabilities
  double output_scale = 1;  ///< multiplies the deviation of the output projection
  int layer = 0;            ///< counts in the random numbers
  bool causal = true;       ///< of self-attention: a token sees itself and what is before it
};

/// Keys and values of the tokens that a generating model has seen: (sequences * length, 2 d).
template <class T>
struct KeyValueCache {
  Matrix<T> rows;
  int length = 0;  ///< rows for each sequence
};

/// Multi-head self-attention on packed tokens. Tensors NAME.qkv.weight (3d, d) with rows
/// q, k, v, and NAME.out.weight (d, d), biases optional. Memory for training is linear in the
/// number of tokens: x, qkv, the heads' output and one number for each token and head.
template <class T>
class Attention {
 public:
  struct Saved {
    Matrix<const T> x;  ///< whoever did not keep it sets it anew before backward
    KeptRows<T> qkv;    ///< (T, 3d), queries and keys already turned
    Matrix<T> heads;    ///< (T, d) before the output projection; never rounded
    Matrix<T> log_sum;  ///< (T, heads)
  };

  /// `rotary` may be null (positions come from elsewhere); it must outlive the layer.
  Attention(const AttentionConfig& config, const Rotary<T>* rotary, ParameterStore<T>& store,
            const std::string& name);

  /// x, y (T, d).
  void forward(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y,
               Saved& saved) const;

  /// Evaluation with a cache: appends this call's keys and values at each token's position, then
  /// attends to all before. Sequence b of the call owns rows [b length, (b + 1) length).
  void forward_cached(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y,
                      const KeyValueCache<T>& cache) const;

  /// dy (T, d) -> WRITES dx (T, d).
  void backward(const StepContext& ctx, const Saved& saved, const Matrix<const T>& dy,
                const Matrix<T>& dx) const;

 private:
  AttentionInput<T> self_attention(const StepContext& ctx, const Matrix<const T>& qkv) const;

  AttentionConfig config_;
  const Rotary<T>* rotary_;
  Linear<T> qkv_, out_;
};

}  // namespace kokomoe
