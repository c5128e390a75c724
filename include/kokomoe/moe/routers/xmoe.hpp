// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/detail/top_k_choice.hpp"

namespace kokomoe {

/// Cosine logits in a small space (X-MoE, Chi et al. 2022, arXiv 2204.09179): u = W_p x of r
/// channels, z_e = t <u, v_e> / (|u| |v_e|) with norms of at least 1e-6 and a learned
/// t = min(exp(log_temperature), 100); then the k largest, weighted by their probabilities over all
/// experts. Tensors NAME.projection (r, d), NAME.vectors (E, r), NAME.log_temperature (1). r is the
/// paper's E / 2 by default, but at least 2 (one channel has no angle) and at most d.
template <class T>
class XMoeRouter final : public Router<T> {
 public:
  static RouterInfo info();
  XMoeRouter(const RouterPlace& place, const RouterOptions& options, ParameterStore<T>& store);

  int max_slots(int tokens) const override { return tokens * this->place_.k; }
  Matrix<T> project(const StepContext& ctx, const Matrix<const T>& x) const override;
  Routing<T> route_logits(const StepContext& ctx, const Matrix<const T>& z,
                          const Routing<T>* replay) const override;
  void logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                       const Routing<T>& routing, const RouterFeedback<T>& feedback,
                       const Matrix<T>& d_z) const override;
  void project_backward(const StepContext& ctx, const Matrix<const T>& x,
                        const Matrix<const T>& d_z, const Matrix<T>& d_x) const override;

 private:
  int width_;
  ParameterHandle projection_, vectors_, log_temperature_;
  detail::TopKRule rule_;
};

}  // namespace kokomoe
