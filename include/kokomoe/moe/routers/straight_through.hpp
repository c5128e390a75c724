// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/detail/one_hot_gate.hpp"

namespace kokomoe {

/// Straight-through (Bengio, Leonard, Courville, arXiv 1308.3432): forward the sampled one-hot,
/// backward the softmax. First order for objective B. See detail::OneHotGateRouter.
template <class T>
class StraightThroughRouter final : public detail::OneHotGateRouter<T> {
 public:
  static RouterInfo info();
  StraightThroughRouter(const RouterPlace& place, const RouterOptions& options,
                        ParameterStore<T>& store);
};

}  // namespace kokomoe
