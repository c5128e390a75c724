// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/step_context.hpp"
#include "kokomoe/parameters/parameter_store.hpp"

#include <string>

namespace kokomoe {

/// layer: (x - mean) / sqrt(variance + 1e-5) weight + bias. rms: x / sqrt(mean square + 1e-6)
/// weight (Zhang and Sennrich, arXiv 1910.07467).
enum class NormKind { layer, rms };

/// "layer_norm" or "rms_norm"; throws InputError.
NormKind parse_norm(const std::string& name);

/// Normalises each token's channels. Tensors NAME.weight (d), ones, and for layer NAME.bias (d).
template <class T>
class Norm {
 public:
  struct Saved {
    Matrix<const T> x;
    Matrix<T> statistics;  ///< (T, 2) mean (0 for rms) and reciprocal deviation
  };

  Norm(NormKind kind, int d_model, ParameterStore<T>& store, const std::string& name);

  /// x, y (T, d); y may not be x.
  void forward(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y,
               Saved& saved) const;

  /// Writes to y (T, d) once more what forward wrote.
  void again(const StepContext& ctx, const Saved& saved, const Matrix<T>& y) const;

  /// ADDS to dx (T, d): the residual's gradient is there already.
  void backward(const StepContext& ctx, const Saved& saved, const Matrix<const T>& dy,
                const Matrix<T>& dx) const;

 private:
  Vector<const T> bias() const;

  NormKind kind_;
  ParameterStore<T>* store_;
  ParameterHandle weight_, bias_;
};

}  // namespace kokomoe
