// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/step_context.hpp"
#include "kokomoe/parameters/parameter_store.hpp"

#include <string>

namespace kokomoe {

/// Rows of a table, looked up by an index. Tensor NAME.weight (rows, d), normal with the given
/// deviation; `row_axis` tells readers of files what a row is. The table may also serve as an output
/// projection (tied): use `handle`.
template <class T>
class Embedding {
 public:
  Embedding(int rows, int d_model, double deviation, ParameterStore<T>& store,
            const std::string& name, const std::string& row_axis = "vocabulary");

  /// y(t, :) = table(index[t], :), or += with `accumulate`. Indices must lie in [0, rows).
  void forward(const StepContext& ctx, const Vector<const int>& index, const Matrix<T>& y,
               bool accumulate) const;

  /// Table gradient: for each table row, the sum of dy over the tokens that used it, in token
  /// order (sorted by index first: no atomics, so the sum's order is fixed).
  void backward(const StepContext& ctx, const Vector<const int>& index,
                const Matrix<const T>& dy) const;

  ParameterHandle handle() const { return weight_; }

 private:
  int rows_;
  ParameterStore<T>* store_;
  ParameterHandle weight_;
};

}  // namespace kokomoe
