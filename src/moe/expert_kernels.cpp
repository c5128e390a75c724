// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/expert_kernels.hpp"

#include "kokomoe/core/error.hpp"
#include "moe/expert_blocks.hpp"

namespace kokomoe {

ExpertKernels parse_expert_kernels(const std::string& name) {
  if (name == "auto") return ExpertKernels::automatic;
  if (name == "gemm") return ExpertKernels::gemm;
  if (name != "blocks")
    throw InputError("unknown expert kernels \"" + name + "\": choose auto, blocks or gemm");
  if (!KOKOMOE_EXPERT_BLOCKS)
    throw InputError("expert kernels \"blocks\" run on hosts, with GCC or Clang: choose gemm");
  return ExpertKernels::blocks;
}

std::string to_string(ExpertKernels kernels) {
  if (kernels == ExpertKernels::automatic) kernels = detail::fastest_kernels;
  if (kernels == ExpertKernels::blocks) return "blocks of rows, a core each";
  return KOKOMOE_TEAM_ROWS ? "a team for each tile, one kernel for all experts"
                           : "one GEMM for each expert";
}

bool by_blocks(ExpertKernels kernels, bool layout_free) {
  if (kernels == ExpertKernels::automatic) kernels = detail::fastest_kernels;
  return KOKOMOE_EXPERT_BLOCKS && !layout_free && kernels == ExpertKernels::blocks;
}

}  // namespace kokomoe
