// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/nn/linear.hpp"

namespace kokomoe {

/// y = gelu(x W^T + b) with the exact error function: what stands between an encoder and a
/// prediction. Tensors NAME.weight (outputs, inputs) and NAME.bias (outputs), see Linear.
template <class T>
class GeluLinear {
 public:
  struct Saved {
    Matrix<const T> x;
    Matrix<T> hidden;  ///< (T, outputs) before the activation
  };

  GeluLinear(int inputs, int outputs, ParameterStore<T>& store, const std::string& name);

  /// x (T, inputs), which must stay until backward -> y (T, outputs).
  void forward(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y,
               Saved& saved) const;

  /// dy (T, outputs) -> WRITES dx (T, inputs).
  void backward(const StepContext& ctx, const Saved& saved, const Matrix<const T>& dy,
                const Matrix<T>& dx) const;

 private:
  Linear<T> linear_;
};

}  // namespace kokomoe
