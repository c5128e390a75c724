// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/expert_layout.hpp"
#include "kokomoe/train/trainer.hpp"

#include <string>

namespace kokomoe::detail {

/// Where an update went wrong, in the same words on every rank though the numbers may lie on one
/// alone: the first parameter that is not finite; else, when the loss is not, the first MoE layer
/// whose probabilities are not; and the gradient to look at. Collective over `layout.world`.
template <class T>
std::string describe_non_finite(const ExecutionSpace& space, const ExpertLayout& layout,
                                const ParameterStore<T>& store, const UpdateReport& report,
                                const std::vector<int>& moe_layers);

}  // namespace kokomoe::detail
