// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/train/training_run.hpp"

#include <iostream>
#include <string>
#include <vector>

namespace kokomoe::app {

/// Calls load(step folder, zero of T) with the type that the checkpoint's deck says, then
/// work(loaded).
template <class Load, class Work>
int with_model(const std::string& from, const std::vector<std::string>& overrides,
               const Communicator& communicator, const Load& load, const Work& work) {
  const auto run = [&](auto loaded) {
    if (communicator.is_root())
      for (const std::string& note : loaded.notes) std::cerr << "note: " << note << std::endl;
    return work(loaded);
  };
  // Once: a training that saves meanwhile must not put another step under the same name.
  const std::string step = resolve_checkpoint(from, communicator);
  const Deck deck = deck_of_checkpoint(step, overrides, communicator);
  return deck.text("run/precision") == "double" ? run(load(step, 0.0)) : run(load(step, 0.0F));
}

/// One output line for each input: newlines, carriage returns and control bytes other than tabs are
/// escaped, since a model of bytes may say anything, and a terminal obeys. All other text stays as
/// it is, backslashes too: what is scored has to be what the model wrote.
std::string escaped(const std::string& text);

}  // namespace kokomoe::app
