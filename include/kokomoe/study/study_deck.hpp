// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/io/deck.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace kokomoe {

/// One way to train: overrides on top of the study's deck.
struct StudyVariant {
  std::string name;
  std::vector<std::string> overrides;  ///< "{seed}" in them is each run's
};

/// What a study's deck says: variants of one deck, each trained with every seed.
struct StudyConfig {
  std::string title;
  std::string deck;
  std::vector<std::string> overrides;  ///< for all variants
  std::vector<StudyVariant> variants;
  std::vector<std::int64_t> seeds;
  std::string reference;  ///< the variant that others are compared with
  std::string figure;     ///< of evaluation rows
  bool larger_is_better = false;
};

Schema study_schema();
/// InputError that points into the deck. Every run's deck is read and checked, too.
StudyConfig read_study_deck(const Deck& deck);

/// One run of a study.
struct StudyTraining {
  const StudyVariant* variant = nullptr;
  std::int64_t seed = 0;
  std::vector<std::string> overrides;  ///< of the study's deck, the seed among them
  Deck deck;

  std::string name() const;  ///< "VARIANT, seed N"
  std::string folder(const std::string& study) const;
};

/// All runs, seed by seed, so that a machine's moods meet all variants alike. They point into
/// `config`.
std::vector<StudyTraining> trainings_of(const StudyConfig& config);

}  // namespace kokomoe
