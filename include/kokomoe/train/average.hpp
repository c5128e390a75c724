// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/communicator.hpp"

#include <string>
#include <vector>

namespace kokomoe {

struct AverageOptions {
  std::vector<std::string> checkpoints;  ///< step folders, or runs, which stand for their latest
  int last = 0;                          ///< > 0: the so many newest steps of one run instead
  std::string run_folder;                ///< that is made
};

/// Makes `run_folder` a run whose one checkpoint has the mean of the parameters of several
/// checkpoints of one model (Vaswani et al. 2017 average the last ones of a run), and everything
/// else of the newest of them: step, moments, the routers' state. Sums are in double. Returns the
/// step folders that went in. On one rank. InputError when there are fewer than two or one comes
/// twice, when their decks make different models, when `run_folder` has a checkpoint or metrics of
/// a training already, or when a checkpoint is damaged. What an interrupted call has left is taken
/// over.
std::vector<std::string> average_checkpoints(const AverageOptions& options,
                                             const Communicator& communicator);

}  // namespace kokomoe
