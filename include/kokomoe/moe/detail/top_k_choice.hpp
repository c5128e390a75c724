// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/detail/group_limit.hpp"
#include "kokomoe/moe/detail/jitter.hpp"
#include "kokomoe/moe/router.hpp"

namespace kokomoe::detail {

/// The k largest of a row of logits and a softmax before or after that choice: what top_k does, and
/// with other logits noisy_top_k, xmoe and default_moe.
struct TopKRule {
  int experts = 1;
  int k = 1;
  bool before = true;  ///< weights are probabilities over all experts; else over the chosen
  GroupLimit groups{1};
};

/// z (T, E) -> routing with `probability` = softmax of all (jittered) logits. Jitter is drawn anew
/// under replay, experts are taken from it. `who` names the router in messages.
template <class T>
Routing<T> route_top_k(const StepContext& ctx, const char* who, const TopKRule& rule,
                       const Jitter<T>& jitter, const Matrix<const T>& z,
                       const Routing<T>* replay);

/// ADDS dL/dz to the first E columns of d_z, from gradients to weights and probabilities.
template <class T>
void top_k_backward(const StepContext& ctx, const TopKRule& rule, const Jitter<T>& jitter,
                    const Routing<T>& routing, const Vector<const T>& d_weight,
                    const Matrix<const T>& d_probability, const Matrix<T>& d_z);

}  // namespace kokomoe::detail
