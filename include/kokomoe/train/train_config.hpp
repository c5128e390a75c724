// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/tokenizer.hpp"
#include "kokomoe/nn/optimizer.hpp"
#include "kokomoe/parallel/expert_layout.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace kokomoe {

/// What a deck says whatever its task is.
struct TrainConfig {
  std::uint64_t seed = 0;
  bool double_precision = false;
  bool round_kept = false;  ///< run/activations = "bfloat16"
  AdamWConfig optimizer;
  bool sgd = false;  ///< instead, with `descent`
  SgdConfig descent;
  Schedule schedule;
  double clip = 0;
  double label_smoothing = 0;
  std::vector<std::string> freeze;
  bool skip_non_finite = false;  ///< leave out updates whose loss or gradient is not finite

  std::int64_t steps = 0;
  std::int64_t batch_tokens = 0;
  int accumulate = 1;
  std::int64_t eval_every = 0;
  int samples = 0;  ///< texts that an evaluation writes
  std::int64_t checkpoint_every = 0;
  int checkpoint_keep = 2;
  ParallelOptions parallel;
  bool layout_free = false;  ///< parallel/deterministic = "layout"

  TokenizerOptions tokenizer;
  std::string cache_folder;
};

}  // namespace kokomoe
