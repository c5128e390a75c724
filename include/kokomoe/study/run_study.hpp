// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/io/deck.hpp"
#include "kokomoe/parallel/communicator.hpp"

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
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
/// InputError that points into the deck. Every variant's deck is read and checked, too.
StudyConfig read_study_deck(const Deck& deck);

struct StudyPoint {
  std::int64_t step = 0;
  double seconds = 0;  ///< of training until then
  double value = 0;    ///< of the figure
};

struct StudyRun {
  std::int64_t seed = 0;
  std::vector<StudyPoint> curve;  ///< evaluations
  double seconds = 0;             ///< of training
  double median_step = 0;         ///< seconds
};

struct MeanAndSpread {
  double mean = 0;
  double deviation = 0;  ///< of one sample, n - 1; NaN for one
  int count = 0;
};

struct StudyRow {
  StudyVariant variant;
  std::vector<StudyRun> runs;  ///< one for each seed, in their order
  MeanAndSpread last;          ///< the figure at the end
  MeanAndSpread difference;    ///< from the reference's with the same seed, at the end
  MeanAndSpread step_ratio;    ///< steps that the reference takes to the target over this one's
  MeanAndSpread second_ratio;  ///< the same of seconds
  int reached = 0;             ///< runs that reach the target
  double step_seconds = 0;     ///< median of the runs' medians
};

struct StudyReport {
  StudyConfig config;
  std::int64_t steps = 0;  ///< of each run
  double target = 0;       ///< the mean of the reference's last values
  std::vector<StudyRow> rows;
  double seconds = 0;  ///< of training, all runs
};

struct StudyOptions {
  std::string folder;  ///< runs/VARIANT/seed_N below it
  double wall_seconds = 0;
  std::function<void(const std::string&)> say;  ///< a line of progress, on the root
};

/// Trains what is not there yet, seed by seed, each variant after the other, and goes on with runs
/// that were interrupted. False when a signal or the wall limit ended it; run it again to go on.
/// InputError when `folder` holds runs of another study. Collective.
bool run_study(const StudyConfig& config, const StudyOptions& options,
               const Communicator& communicator);

/// What the runs in `folder` say, all being done. On the root. InputError naming what is missing.
StudyReport summarise_study(const StudyConfig& config, const std::string& folder);

/// The first step (interpolated between evaluations) at which `curve` is at most `target`, or at
/// least if `larger_is_better`, and the seconds until then; {NaN, NaN} when it is never.
std::pair<double, double> first_reach(const std::vector<StudyPoint>& curve, double target,
                                      bool larger_is_better = false);

/// The mean of a variant's runs at each evaluation that all of them have.
struct StudyCurve {
  std::vector<double> step, seconds, mean, deviation;  ///< deviation 0 for one run
};
StudyCurve mean_curve(const StudyRow& row);

/// "1.234 ± 0.005"; "-" for none.
std::string with_spread(const MeanAndSpread& value, int digits);
/// A table in Markdown, and a paragraph that says what is in it.
std::string study_table(const StudyReport& report);
std::string study_note(const StudyReport& report);

}  // namespace kokomoe
