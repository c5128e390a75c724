// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/step_context.hpp"
#include "kokomoe/parameters/parameter_store.hpp"

#include <string>

namespace kokomoe {

/// y = x W^T (+ b): tensors NAME.weight (outputs, inputs) and NAME.bias (outputs). Initial weights
/// are normal with deviation scale / sqrt(inputs), biases zero.
template <class T>
class Linear {
 public:
  Linear(int inputs, int outputs, bool bias, ParameterStore<T>& store, const std::string& name,
         double scale = 1);

  /// x (T, inputs) -> y (T, outputs).
  void forward(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y) const;

  /// dy (T, outputs) -> WRITES dx (T, inputs), or adds with `accumulate`.
  void backward(const StepContext& ctx, const Matrix<const T>& x, const Matrix<const T>& dy,
                const Matrix<T>& dx, bool accumulate = false) const;

 private:
  ParameterStore<T>* store_;
  ParameterHandle weight_, bias_;
};

}  // namespace kokomoe
