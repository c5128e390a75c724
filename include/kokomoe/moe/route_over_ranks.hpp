// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/moe_config.hpp"
#include "kokomoe/moe/router.hpp"

namespace kokomoe {

/// The choices for this rank's tokens where routing groups are runs of all ranks' tokens, in rank
/// order. `capacity` in config is applied where `limited`.
/// A batch-coupled router: every rank gathers the logits z (T, columns) of all, routes all, and keeps
/// its own rows; costs the routing of all tokens on each rank and the transfer of their logits. Every
/// part of such a Routing must have rows for tokens or slots, and route_logits must not be
/// collective. Other routers route their own tokens, and only a capacity gathers what all chose.
/// Collective over ctx.communicator. The result has this rank's T tokens and, where batch-coupled,
/// views into arrays of all tokens, in ctx.saved.
template <class T>
Routing<T> route_over_ranks(const StepContext& ctx, const Router<T>& router,
                            const MoeConfig& config, bool limited, const Matrix<const T>& z);

}  // namespace kokomoe
