// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/detail/sampled_gate.hpp"

namespace kokomoe {

/// The sampled gate with the midpoint rule (Liu, Gao, Chen, arXiv 2310.00811): s = 1 or 1/2 by a
/// fair coin, factor 2. Second order at one site; argmax_exception = true gives SparseMixer v1's
/// rule, which is of first order. See detail::SampledGateRouter.
template <class T>
class MidpointRouter final : public detail::SampledGateRouter<T> {
 public:
  static RouterInfo info();
  MidpointRouter(const RouterPlace& place, const RouterOptions& options,
                 ParameterStore<T>& store);
};

}  // namespace kokomoe
