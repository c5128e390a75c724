// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/types.hpp"

namespace kokomoe {

/// Floating-point operations that square GEMMs of T do in a second here: the best of a few, up to a
/// size for which these take about `seconds`. The best, since whatever else the machine does can
/// only make them slower. What arithmetic is to be compared with. T: float, double.
template <class T>
double measure_gemm_rate(const ExecutionSpace& space, double seconds = 0.06);

}  // namespace kokomoe
