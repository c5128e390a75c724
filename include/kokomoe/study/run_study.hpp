// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/communicator.hpp"
#include "kokomoe/study/study_deck.hpp"

#include <functional>
#include <string>

namespace kokomoe {

struct StudyOptions {
  std::string folder;  ///< runs/VARIANT/seed_N below it
  double wall_seconds = 0;
  std::function<void(const std::string&)> say;  ///< a line of progress, on the root
};

enum class StudyEnd {
  whole,   ///< every run is there, or has failed for good
  stopped  ///< by a signal or the wall limit: run it again to go on
};

/// Trains what is not there yet, seed by seed, each variant after the other, and goes on with runs
/// that were interrupted. A run whose loss leaves the finite numbers has failed: its folder gets a
/// file `failed` with the message, and the others go on. InputError, before the first run, for what
/// training would refuse in any of them, and when `folder` holds runs of another study; after a run
/// whose data are not those of the variant's others. Collective.
StudyEnd run_study(const StudyConfig& config, const StudyOptions& options,
                   const Communicator& communicator);

}  // namespace kokomoe
