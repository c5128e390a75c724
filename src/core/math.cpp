// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/math.hpp"

namespace kokomoe::detail {

const float exp_range[2] = {-87.3f, 88.3f};

}  // namespace kokomoe::detail
