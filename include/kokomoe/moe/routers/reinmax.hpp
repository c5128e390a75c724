// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/detail/one_hot_gate.hpp"

namespace kokomoe {

/// ReinMax (Liu, Dong, Yu, Gao, arXiv 2304.08612): straight-through made second order for objective
/// B by Heun's rule. See detail::OneHotGateRouter.
template <class T>
class ReinMaxRouter final : public detail::OneHotGateRouter<T> {
 public:
  static RouterInfo info();
  ReinMaxRouter(const RouterPlace& place, const RouterOptions& options,
                ParameterStore<T>& store);
};

}  // namespace kokomoe
