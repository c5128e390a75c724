// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/study/study_report.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/train/progress.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

namespace kokomoe {

namespace {

constexpr double unknown = std::numeric_limits<double>::quiet_NaN();

MeanAndSpread mean_of(const std::vector<double>& values) {
  MeanAndSpread result;
  for (const double value : values) result.mean += value / static_cast<double>(values.size());
  result.count = static_cast<int>(values.size());
  double squares = 0;
  for (const double value : values) squares += (value - result.mean) * (value - result.mean);
  result.deviation =
      values.size() > 1 ? std::sqrt(squares / static_cast<double>(values.size() - 1)) : unknown;
  if (values.empty()) result.mean = unknown;
  return result;
}

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? unknown : values[values.size() / 2];
}

/// The value at the end of a run; unknown for one that failed.
double last_of(const StudyRun& run) {
  return run.failure.empty() ? run.curve.back().value : unknown;
}

StudyRun read_or_failure(const std::string& folder, const std::string& figure) {
  std::ifstream failed(failure_file(folder));
  if (!failed) return read_study_run(folder, figure);
  StudyRun run;
  std::getline(failed, run.failure);
  if (run.failure.empty()) run.failure = "failed";
  return run;
}

}  // namespace

std::string failure_file(const std::string& run_folder) {
  return run_folder + "/failed";
}

StudyRun read_study_run(const std::string& folder, const std::string& figure) {
  const std::string path = folder + "/metrics.jsonl";
  std::ifstream file(path);
  if (!file) throw InputError(path + ": cannot be opened; is the study done?");
  StudyRun run;
  std::vector<double> steps;
  std::size_t number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    const auto refuse = [&](const std::string& what) {
      throw InputError(path + ":" + std::to_string(number) + ": error: " + what);
    };
    const nlohmann::json row = nlohmann::json::parse(line, nullptr, false);
    // A run that was killed leaves half a line, which the next one cuts off.
    if (!row.is_object() && file.eof()) break;
    if (!row.is_object()) refuse("no JSON object");
    const auto number_in = [&](const char* key) {
      const auto found = row.find(key);
      if (found == row.end() || !found->is_number())
        refuse(std::string("no number \"") + key + "\"");
      return found->get<double>();
    };
    if (row.contains("seconds")) {
      steps.push_back(number_in("seconds"));
      run.seconds += steps.back();
    }
    if (!row.contains("eval_loss")) continue;
    const auto found = row.find(figure);
    if (found == row.end() || !(found->is_number() || found->is_null()))
      refuse("no \"" + figure + "\"");
    run.curve.push_back({static_cast<std::int64_t>(number_in("step")), run.seconds,
                         found->is_null() ? unknown : found->get<double>()});
  }
  if (run.curve.empty()) throw InputError(path + ": no evaluation");
  run.median_step = median_of(steps);
  return run;
}

std::pair<double, double> first_reach(const std::vector<StudyPoint>& curve, double target,
                                      bool larger_is_better) {
  const double sign = larger_is_better ? -1 : 1;
  for (std::size_t i = 0; i < curve.size(); ++i) {
    if (!(sign * curve[i].value <= sign * target)) continue;
    const double step = static_cast<double>(curve[i].step);
    if (i == 0 || !std::isfinite(curve[i - 1].value)) return {step, curve[i].seconds};
    const StudyPoint& before = curve[i - 1];
    const double share = (before.value - target) / (before.value - curve[i].value);
    return {
        static_cast<double>(before.step) + share * static_cast<double>(curve[i].step - before.step),
        before.seconds + share * (curve[i].seconds - before.seconds)};
  }
  return {unknown, unknown};
}

StudyReport summarise_study(const StudyConfig& config, const std::string& folder) {
  StudyReport report;
  report.config = config;
  for (const StudyVariant& variant : config.variants) report.rows.push_back({variant, {}});
  for (const StudyTraining& training : trainings_of(config)) {
    StudyRow& row =
        report.rows[static_cast<std::size_t>(training.variant - config.variants.data())];
    row.runs.push_back(read_or_failure(training.folder(folder), config.figure));
    StudyRun& run = row.runs.back();
    run.seed = training.seed;
    row.steps = training.deck.integer("train/steps");
    report.steps = std::max(report.steps, row.steps);
    report.seconds += run.seconds;
    if (!run.failure.empty()) report.failures.push_back(training.name() + ": " + run.failure);
  }
  const StudyRow* reference = nullptr;
  for (StudyRow& row : report.rows) {
    std::vector<double> last, steps;
    for (const StudyRun& run : row.runs) {
      if (!run.failure.empty()) continue;
      last.push_back(last_of(run));
      steps.push_back(run.median_step);
    }
    row.last = mean_of(last);
    row.step_seconds = median_of(steps);
    if (row.variant.name == config.reference) reference = &row;
  }
  if (reference->last.count == 0)
    throw InputError("no run of the reference \"" + config.reference +
                     "\" has come to its end: " + report.failures.front());
  report.target = reference->last.mean;
  for (StudyRow& row : report.rows) {
    std::vector<double> differences, step_ratios, second_ratios;
    for (std::size_t i = 0; i < row.runs.size(); ++i) {
      const StudyRun& own = row.runs[i];
      const StudyRun& other = reference->runs[i];
      if (!own.failure.empty() || !other.failure.empty()) continue;
      differences.push_back(last_of(own) - last_of(other));
      // To where the reference itself comes with this seed, at its end.
      const double goal = last_of(other);
      const auto [step, second] = first_reach(own.curve, goal, config.larger_is_better);
      const auto [other_step, other_second] =
          first_reach(other.curve, goal, config.larger_is_better);
      if (std::isnan(step)) continue;
      ++row.reached;
      step_ratios.push_back(other_step / step);
      second_ratios.push_back(other_second / second);
    }
    row.difference = mean_of(differences);
    row.step_ratio = mean_of(step_ratios);
    row.second_ratio = mean_of(second_ratios);
  }
  return report;
}

std::string with_spread(const MeanAndSpread& value, int digits) {
  if (value.count == 0) return "-";
  char text[64];
  if (value.count == 1)
    std::snprintf(text, sizeof text, "%.*f", digits, value.mean);
  else
    std::snprintf(text, sizeof text, "%.*f ± %.*f", digits, value.mean, digits, value.deviation);
  return text;
}

StudyCurve mean_curve(const StudyRow& row) {
  StudyCurve curve;
  std::vector<const StudyRun*> runs;
  for (const StudyRun& run : row.runs)
    if (run.failure.empty()) runs.push_back(&run);
  if (runs.empty()) return curve;
  std::size_t points = runs.front()->curve.size();
  for (const StudyRun* run : runs) points = std::min(points, run->curve.size());
  for (std::size_t p = 0; p < points; ++p) {
    std::vector<double> values, times;
    for (const StudyRun* run : runs) {
      values.push_back(run->curve[p].value);
      times.push_back(run->curve[p].seconds);
    }
    const MeanAndSpread value = mean_of(values);
    curve.step.push_back(static_cast<double>(runs.front()->curve[p].step));
    curve.seconds.push_back(mean_of(times).mean);
    curve.mean.push_back(value.mean);
    curve.deviation.push_back(value.count > 1 ? value.deviation : 0);
  }
  return curve;
}

std::string milliseconds(double seconds) {
  if (!std::isfinite(seconds)) return "-";
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", 1e3 * seconds);
  return text;
}

std::string study_table(const StudyReport& report) {
  const StudyConfig& config = report.config;
  std::string text = "| variant | " + config.figure + " at the end | less " + config.reference +
                     "'s, same seed | reached it | " + config.reference +
                     "'s steps over its own | and seconds | ms a step |\n"
                     "| --- | --- | --- | --- | --- | --- | --- |\n";
  for (const StudyRow& row : report.rows) {
    const bool reference = row.variant.name == config.reference;
    text +=
        "| " + row.variant.name + " | " + with_spread(row.last, 4) + " | " +
        (reference ? "" : with_spread(row.difference, 4)) + " | " +
        (reference ? "" : std::to_string(row.reached) + " of " + std::to_string(row.last.count)) +
        " | " + (reference ? "1" : with_spread(row.step_ratio, 2)) + " | " +
        (reference ? "1" : with_spread(row.second_ratio, 2)) + " | " +
        milliseconds(row.step_seconds) + " |\n";
  }
  return text;
}

std::string study_note(const StudyReport& report) {
  const StudyConfig& config = report.config;
  std::int64_t least = report.steps;
  for (const StudyRow& row : report.rows) least = std::min(least, row.steps);
  std::string text =
      "Mean ± standard deviation over " + std::to_string(config.seeds.size()) + " seed(s), " +
      (least < report.steps ? std::to_string(least) + " to " : "") + std::to_string(report.steps) +
      " steps each, " + human_time(report.seconds) +
      " of training in all. \"Reached it\": runs that came to the reference's last " +
      config.figure + " of the same seed; ratios are over those alone.\n";
  if (!report.failures.empty()) text += "\nFailed, and in none of the figures:\n\n";
  for (const std::string& failure : report.failures) text += "- " + failure + "\n";
  return text;
}

}  // namespace kokomoe
