// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/detail/sampled_gate.hpp"

namespace kokomoe {

/// The sampled gate with a random point of the path from 0 to p E (this library's own, in the
/// setting of arXiv 2310.00811): s = 1 with probability 1/2, else s ~ U(0, 1); factor 2. The mean over s of
/// 2 p f'(s p E) E is p f'(p E) E + f(p E) - f(0) for any smooth f, so the gradient has no bias at
/// one site, with one expert run; the price is variance. See detail::SampledGateRouter.
template <class T>
class UniformPathRouter final : public detail::SampledGateRouter<T> {
 public:
  static RouterInfo info();
  UniformPathRouter(const RouterPlace& place, const RouterOptions& options,
                    ParameterStore<T>& store);
};

}  // namespace kokomoe
