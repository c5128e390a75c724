// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/types.hpp"

namespace kokomoe {

/// Floating-point operations that square GEMMs of T do in a second here: the median of a few, of
/// the largest size for which these take about `seconds`. What arithmetic is to be compared with.
/// T: float, double.
template <class T>
double measure_gemm_rate(const ExecutionSpace& space, double seconds = 0.06);

}  // namespace kokomoe
