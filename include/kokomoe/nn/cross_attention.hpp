// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/nn/attention.hpp"

namespace kokomoe {

/// Multi-head attention of one packed batch's tokens to another's: sequence b of the one sees all
/// of sequence b of the other, its memory. Tensors NAME.query.weight (d, d), NAME.key_value.weight
/// (2d, d) with rows k, v, and NAME.out.weight (d, d), biases optional.
template <class T>
class CrossAttention {
 public:
  struct Saved {
    Matrix<const T> x;  ///< whoever did not keep it sets it anew before backward
    Matrix<const T> memory;
    KeptRows<T> query;      ///< (T, d)
    KeptRows<T> key_value;  ///< (S, 2d)
    Matrix<T> heads;        ///< (T, d) before the output projection; never rounded
    Matrix<T> log_sum;      ///< (T, heads)
  };

  /// config.causal does not matter.
  CrossAttention(const AttentionConfig& config, ParameterStore<T>& store, const std::string& name);

  /// x, y (T, d) of ctx.tokens; memory (S, d) of `source.tokens`, which has as many sequences.
  /// `source` is the same step's context but for its tokens.
  void forward(const StepContext& ctx, const StepContext& source, const Matrix<const T>& x,
               const Matrix<const T>& memory, const Matrix<T>& y, Saved& saved) const;

  /// dy (T, d) -> WRITES dx (T, d), ADDS to d_memory (S, d).
  void backward(const StepContext& ctx, const StepContext& source, const Saved& saved,
                const Matrix<const T>& dy, const Matrix<T>& dx, const Matrix<T>& d_memory) const;

  /// For generation: the memory's keys and values once, (S, 2d), then as often as one likes.
  void keys_and_values(const StepContext& source, const Matrix<const T>& memory,
                       const Matrix<T>& key_value) const;
  /// Sequence b of ctx sees rows [memory_begin(b), memory_begin(b) + memory_count(b)).
  void forward_cached(const StepContext& ctx, const Matrix<const T>& x,
                      const Matrix<const T>& key_value, const Vector<const int>& memory_begin,
                      const Vector<const int>& memory_count, const Matrix<T>& y) const;

 private:
  AttentionInput<T> input(const StepContext& ctx, const Matrix<const T>& query,
                          const Matrix<const T>& key_value) const;

  AttentionConfig config_;
  Linear<T> query_, key_value_, out_;
};

}  // namespace kokomoe
