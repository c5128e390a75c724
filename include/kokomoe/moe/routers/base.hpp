// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/router_registry.hpp"

namespace kokomoe {

/// BASE layers (arXiv 2103.16716). Training assigns the n tokens of a routing group so that each
/// expert gets floor(n / E) or ceil(n / E) of them and the sum of the chosen logits is the largest
/// possible, to within `epsilon` for each of ceil(n / E) E places, in units of the largest spread
/// of a token's logits in the group; evaluation takes the argmax. The weight is sigmoid(z); the
/// assignment has no gradient.
///
/// Auction (Bertsekas 1992, doi 10.1007/BF00247653) with epsilon scaling, in double, one thread for
/// each group. A group whose bids run out (500 for each place and phase) is filled in token order,
/// by the prices reached. Infinities as in LogitRow; an expert of -infinity or NaN counts as twice
/// the spread below the token's best.
template <class T>
class BaseRouter final : public Router<T> {
 public:
  static RouterInfo info();
  BaseRouter(const RouterPlace& place, const RouterOptions& options, ParameterStore<T>& store);

  int max_slots(int tokens) const override { return tokens; }
  Routing<T> route_logits(const StepContext& ctx, const Matrix<const T>& z,
                          const Routing<T>* replay) const override;
  void logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                       const Routing<T>& routing, const RouterFeedback<T>& feedback,
                       const Matrix<T>& d_z) const override;

 private:
  double epsilon_;
};

}  // namespace kokomoe
