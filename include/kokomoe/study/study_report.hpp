// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/study/study_deck.hpp"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace kokomoe {

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
  std::string failure;            ///< why it has no end; it counts for nothing then
};

struct MeanAndSpread {
  double mean = 0;
  double deviation = 0;  ///< of one sample, n - 1; NaN for one
  int count = 0;
};

struct StudyRow {
  StudyVariant variant;
  std::vector<StudyRun> runs;  ///< one for each seed, in their order
  std::int64_t steps = 0;      ///< of a run
  MeanAndSpread last;          ///< the figure at the end
  MeanAndSpread difference;    ///< from the reference's with the same seed, at the end
  MeanAndSpread step_ratio;    ///< steps that the reference takes to the target over this one's
  MeanAndSpread second_ratio;  ///< the same of seconds
  int reached = 0;             ///< runs that reach the target
  double step_seconds = 0;     ///< median of the runs' medians
};

struct StudyReport {
  StudyConfig config;
  std::int64_t steps = 0;  ///< of each run, the most of them
  double target = 0;       ///< the mean of the reference's last values
  std::vector<StudyRow> rows;
  double seconds = 0;                 ///< of training, all runs
  std::vector<std::string> failures;  ///< "VARIANT, seed N: why"
};

/// What the runs in `folder` say, all being done. On the root. InputError naming what is missing,
/// and when no run of the reference has come to its end.
StudyReport summarise_study(const StudyConfig& config, const std::string& folder);

/// One run's metrics, which must hold an evaluation with `figure`. InputError with file and line.
StudyRun read_study_run(const std::string& run_folder, const std::string& figure);

/// Where run_study says that a run has failed.
std::string failure_file(const std::string& run_folder);

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
/// "17.6" of 0.0176; "-" for what is not known.
std::string milliseconds(double seconds);
/// A table in Markdown, and a paragraph that says what is in it.
std::string study_table(const StudyReport& report);
std::string study_note(const StudyReport& report);

}  // namespace kokomoe
