// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/io/deck.hpp"
#include "kokomoe/parallel/communicator.hpp"
#include "kokomoe/train/task.hpp"

#include <string>
#include <vector>

namespace kokomoe {

/// Checks, before any work, that the files that a deck names are there and can be read, and the run
/// that training begins with is there. InputError that points at the key. `from_checkpoint`: it is
/// a checkpoint's deck, made perhaps in another folder, and the message says so. Collective; the
/// root looks.
void require_data_files(const Deck& deck, DataUse use, bool from_checkpoint,
                        const Communicator& communicator);

/// Adds a note when the learning rate never gets past its warm-up.
void note_schedule(const TrainConfig& config, std::vector<std::string>& notes);

}  // namespace kokomoe
