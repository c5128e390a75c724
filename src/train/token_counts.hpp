// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/corpus.hpp"
#include "kokomoe/moe/moe_config.hpp"

#include <vector>

namespace kokomoe::detail {

/// moe.token_counts = how often each token stands in `corpora`, where a balanced hash table is made
/// from that. Without corpora they are zero: the table then is the checkpoint's, which is about to
/// be read.
void count_tokens_for_hash(MoeConfig& moe, int moe_every, int vocabulary,
                           const std::vector<const Corpus*>& corpora);

}  // namespace kokomoe::detail
