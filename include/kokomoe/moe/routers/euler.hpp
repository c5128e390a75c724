// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/detail/sampled_gate.hpp"

namespace kokomoe {

/// The sampled gate with Euler's rule (Liu, Gao, Chen, arXiv 2310.00811): f(p E) - f(0) is taken to
/// be p f'(p E) E, so s = 1 and the factor is 2; grad_factor = 1 leaves that term out, as
/// conventional gates do. First order. See detail::SampledGateRouter.
template <class T>
class EulerRouter final : public detail::SampledGateRouter<T> {
 public:
  static RouterInfo info();
  EulerRouter(const RouterPlace& place, const RouterOptions& options,
              ParameterStore<T>& store);
};

}  // namespace kokomoe
