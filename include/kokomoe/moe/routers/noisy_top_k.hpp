// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/detail/top_k_choice.hpp"

namespace kokomoe {

/// Noisy top-k gating (Shazeer et al. 2017, arXiv 1701.06538, equations 3 to 5, 8 to 11). Logits are
/// 2E columns: z = x W^T and the noise's y = x W_n^T (NAME.noise_weight (E, d), zero at first). In
/// training h = z + n softplus(y) with n ~ N(0, 1) for each token and expert; weights are the softmax
/// over the k largest h. In evaluation h = z. Its own losses, over the micro-batch of all ranks:
/// importance CV^2(sum_t weight_te) and load CV^2(sum_t P_te), P_te = Phi((z_te - the k-th largest h of
/// the other experts) / softplus(y_te)), CV^2 the variance over the squared mean. With k = E every
/// P_te is 1 and there is no load loss. Collective in training while either has a weight.
template <class T>
class NoisyTopKRouter final : public Router<T> {
 public:
  static RouterInfo info();
  NoisyTopKRouter(const RouterPlace& place, const RouterOptions& options,
                  ParameterStore<T>& store);

  int max_slots(int tokens) const override { return tokens * this->place_.k; }
  int logit_columns() const override { return 2 * this->place_.experts; }
  Matrix<T> project(const StepContext& ctx, const Matrix<const T>& x) const override;
  Routing<T> route_logits(const StepContext& ctx, const Matrix<const T>& z,
                          const Routing<T>* replay) const override;
  void add_auxiliary_loss(const StepContext& ctx, const Routing<T>& routing,
                          const Vector<double>& sum) const override;
  void logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                       const Routing<T>& routing, const RouterFeedback<T>& feedback,
                       const Matrix<T>& d_z) const override;
  void project_backward(const StepContext& ctx, const Matrix<const T>& x,
                        const Matrix<const T>& d_z, const Matrix<T>& d_x) const override;

 private:
  ParameterHandle noise_weight_;
  double importance_, load_;
  detail::TopKRule rule_;
};

}  // namespace kokomoe
