// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>

namespace kokomoe {

/// How experts multiply their rows.
enum class ExpertKernels {
  automatic,  ///< blocks where they were measured to be faster (AVX-512), else gemm
  blocks,     ///< each core takes blocks of rows through a whole expert; hosts only
  gemm        ///< a library's GEMM for each expert, over all cores
};

/// "auto", "blocks" or "gemm"; throws InputError, for "blocks" too where the build has none.
ExpertKernels parse_expert_kernels(const std::string& name);

/// What runs, for the start banner: of `automatic`, what was chosen.
std::string to_string(ExpertKernels kernels);

/// Whether experts run as blocks of rows, a core each.
bool by_blocks(ExpertKernels kernels, bool layout_free);

}  // namespace kokomoe
