// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/detail/sampled_gate.hpp"

namespace kokomoe {

/// The sampled gate with Heun's third-order rule (Liu et al., arXiv 2409.12136, appendix): s = 1
/// with probability 5/8, else 1/3; factor 2. Third order at one site. See
/// detail::SampledGateRouter.
template <class T>
class HeunRouter final : public detail::SampledGateRouter<T> {
 public:
  static RouterInfo info();
  HeunRouter(const RouterPlace& place, const RouterOptions& options,
             ParameterStore<T>& store);
};

}  // namespace kokomoe
