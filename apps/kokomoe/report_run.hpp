// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/train/run_record.hpp"
#include "plot/points.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace kokomoe::app {

/// A curve over the steps and, thinned out in the same way, over the seconds of training.
struct RunCurve {
  plot::Points raw, smoothed;            ///< `smoothed` is empty where there are few steps
  plot::Points raw_time, smoothed_time;  ///< filled for the losses only
};

/// A layer's or an expert's numbers over the steps, as a heat map takes them.
struct RunGrid {
  std::vector<double> steps;
  std::size_t rows = 0, row_stride = 1;
  std::vector<double> values;  ///< rows * steps.size()
};

/// One run as the report shows it: what is as long as the run has been thinned out.
struct ReportRun {
  std::string name;  ///< told apart from the others' names
  RunRecord record;  ///< without columns and layers

  bool empty = false;             ///< its metrics have no lines yet
  std::int64_t step = 0;          ///< the last one
  std::optional<double> planned;  ///< train/steps
  double seconds = 0;
  double tokens = 0, tokens_per_second = 0;  ///< NaN: not known; the latter is the median
  double last_loss = 0, tail_loss = 0;  ///< of the loss that is shown; tail: of the last twentieth
  std::int64_t tail_steps = 0;
  std::int64_t not_finite = 0;  ///< steps whose loss is NaN or infinite
  std::optional<double> best_loss;
  std::int64_t best_step = 0;
  /// The last value of each evaluation's figures, and its step.
  std::map<std::string, std::pair<double, std::int64_t>> last;

  std::map<std::string, RunCurve> curves;  ///< by column; "busiest", "spread" from the loads
  plot::Points lost;                       ///< steps whose loss is not finite
  RunGrid imbalance;                       ///< largest load over mean: rows are MoE layers
  std::vector<RunGrid> expert_load;  ///< over the fair share, of each MoE layer: rows are experts
};

/// The runs' names: of the folders, with as many of those above as tell all of them apart.
/// InputError for the same folder twice.
std::vector<std::string> names_of_runs(const std::vector<std::string>& folders);

/// Reads the folders one after the other; each is thinned out before the next. InputError where
/// none of them has lines of metrics. `loss` becomes the column that is shown: "task_loss" where
/// all runs have it, else "loss".
std::vector<ReportRun> read_report_runs(const std::vector<std::string>& folders, std::string& loss);

/// Keys whose values are not the same in all decks, with the value in each run ("" where it has
/// none).
std::vector<std::pair<std::string, std::vector<std::string>>> deck_differences(
    const std::vector<ReportRun>& runs);

/// The report's figures.
nlohmann::json report_json(const std::vector<ReportRun>& runs, const std::string& loss);

}  // namespace kokomoe::app
