// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "report_run.hpp"

#include "kokomoe/core/error.hpp"
#include "plot/svg.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <limits>
#include <set>

namespace kokomoe::app {

namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
/// Columns that curves are thinned out to before their plot's width is known.
constexpr std::size_t kept_columns = 2000;
constexpr std::size_t smoothed_points = 2000;
/// Columns of a heat map, and rows and columns together of all of a page's.
constexpr std::size_t grid_columns = 100, grid_rows = 128;

plot::Points thinned(const plot::Points& points) {
  if (points.empty()) return points;
  return plot::condense(points, plot::Axis(points.front().x, points.back().x), kept_columns);
}

plot::Points zip(const std::vector<double>& x, const std::vector<double>& y) {
  plot::Points points(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) points[i] = {x[i], y[i]};
  return points;
}

/// Steps to either side of which a smoothed curve is the mean.
std::size_t half_window(std::size_t steps) {
  return steps < 20 ? 0 : std::max<std::size_t>(steps / 50, 2);
}

RunCurve curve_of(const RunRecord& record, const std::vector<double>& column, bool with_time) {
  RunCurve curve;
  const std::size_t half = half_window(column.size());
  const auto fill = [&](const std::vector<double>& x, plot::Points& raw, plot::Points& smoothed) {
    const plot::Points points = zip(x, column);
    raw = thinned(points);
    if (half > 0) smoothed = plot::smooth(points, half, smoothed_points);
  };
  fill(record.steps, curve.raw, curve.smoothed);
  if (with_time) fill(record.seconds, curve.raw_time, curve.smoothed_time);
  return curve;
}

double median(std::vector<double> values) {
  std::erase_if(values, [](double v) { return !std::isfinite(v); });
  if (values.empty()) return nan;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return 0.5 * (*middle + *std::max_element(values.begin(), middle));
}

/// Means over runs of steps for each layer.
RunGrid imbalance_of(const RunRecord& record) {
  RunGrid grid;
  const auto found = record.layers.find("load_largest_over_mean");
  if (found == record.layers.end() || found->second.empty()) return grid;
  const auto& layers = found->second;
  const std::size_t n = record.steps.size(), columns = std::min(n, grid_columns);
  grid.row_stride = (layers.size() + grid_rows - 1) / grid_rows;
  grid.rows = (layers.size() + grid.row_stride - 1) / grid.row_stride;
  grid.values.assign(grid.rows * columns, nan);
  for (std::size_t c = 0; c < columns; ++c) {
    const std::size_t begin = c * n / columns, end = (c + 1) * n / columns;
    grid.steps.push_back(0.5 * (record.steps[begin] + record.steps[end - 1]));
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      double sum = 0;
      std::size_t count = 0;
      for (std::size_t i = begin; i < end; ++i)
        if (std::isfinite(layers[layer][i])) sum += static_cast<double>(layers[layer][i]), ++count;
      double& cell = grid.values[(layer / grid.row_stride) * columns + c];
      // Of layers that share a row the worst is shown.
      if (count > 0) cell = std::fmax(cell, sum / static_cast<double>(count));
    }
  }
  return grid;
}

/// The layers' columns in one for each step: the worst layer's load, and the number of experts that
/// a uniform load of the same entropy would use, as a mean over the layers.
void add_load_curves(const RunRecord& record, std::map<std::string, RunCurve>& curves) {
  const std::size_t n = record.steps.size();
  const auto add = [&](const char* key, const char* name, auto join) {
    const auto found = record.layers.find(key);
    if (found == record.layers.end() || found->second.empty()) return;
    std::vector<double> column(n);
    for (std::size_t i = 0; i < n; ++i) column[i] = join(found->second, i);
    curves[name] = curve_of(record, column, false);
  };
  using Layers = std::vector<std::vector<float>>;
  add("load_largest_over_mean", "busiest", [](const Layers& layers, std::size_t i) {
    double worst = nan;
    for (const auto& layer : layers) worst = std::fmax(worst, static_cast<double>(layer[i]));
    return worst;
  });
  add("load_entropy", "spread", [](const Layers& layers, std::size_t i) {
    double sum = 0;
    for (const auto& layer : layers) sum += std::exp(static_cast<double>(layer[i]));
    return sum / static_cast<double>(layers.size());
  });
}

/// Grids of the experts' loads, one for each MoE layer, of at most `cells` cells.
std::vector<RunGrid> loads_of(const RunRecord& record, std::size_t cells) {
  std::vector<const EvaluationRecord*> rows;
  for (const EvaluationRecord& row : record.evaluations)
    if (!row.expert_load.empty()) rows.push_back(&row);
  std::vector<RunGrid> grids;
  if (rows.empty()) return grids;
  for (std::size_t layer = 0; layer < rows[0]->expert_load.size(); ++layer) {
    const std::size_t experts = rows[0]->expert_load[layer].size();
    RunGrid grid;
    const std::size_t most_rows = std::min(grid_rows, std::max<std::size_t>(cells / 16, 1));
    grid.row_stride = std::max<std::size_t>((experts + most_rows - 1) / most_rows, 1);
    grid.rows = (experts + grid.row_stride - 1) / grid.row_stride;
    const std::size_t columns =
        std::min({rows.size(), grid_columns,
                  std::max<std::size_t>(cells / std::max<std::size_t>(grid.rows, 1), 1)});
    grid.values.assign(grid.rows * columns, nan);
    for (std::size_t c = 0; c < columns; ++c) {
      // The last of those that share a column: what is shown was measured, and the end is shown.
      const EvaluationRecord& row = *rows[(c + 1) * rows.size() / columns - 1];
      grid.steps.push_back(static_cast<double>(row.step));
      for (std::size_t e = 0; e < experts; ++e) {
        double& cell = grid.values[(e / grid.row_stride) * columns + c];
        cell = std::fmax(cell, row.expert_load[layer][e] * static_cast<double>(experts));
      }
    }
    grids.push_back(std::move(grid));
  }
  return grids;
}

void add_evaluations(ReportRun& run) {
  for (const EvaluationRecord& row : run.record.evaluations) {
    for (const auto& [name, value] : row.figures) {
      if (name == "eval_loss" && std::isfinite(value) &&
          (!run.best_loss || value < *run.best_loss)) {
        run.best_loss = value;
        run.best_step = row.step;
      }
      run.last[name] = {value, row.step};
    }
    run.step = std::max(run.step, row.step);
  }
}

void add_loss(const std::string& loss, ReportRun& run) {
  const RunRecord& record = run.record;
  run.last_loss = run.tail_loss = nan;
  const std::vector<double>* column = record.column(loss);
  if (column == nullptr) return;
  const std::size_t n = column->size();
  const std::size_t tail = std::max<std::size_t>(n / 20, 1);
  double sum = 0;
  std::size_t count = 0;
  for (std::size_t i = n - tail; i < n; ++i)
    if (std::isfinite((*column)[i])) sum += (*column)[i], ++count;
  run.last_loss = column->back();
  run.tail_loss = count > 0 ? sum / static_cast<double>(count) : nan;
  run.tail_steps = static_cast<std::int64_t>(tail);
  plot::Points lost;
  for (std::size_t i = 0; i < n; ++i)
    if (!std::isfinite((*column)[i])) lost.push_back({record.steps[i], 0});
  run.not_finite = static_cast<std::int64_t>(lost.size());
  run.lost = thinned(lost);
}

/// What is known of a run; its columns are given up.
void summarise(const std::string& loss, ReportRun& run) {
  RunRecord& record = run.record;
  if (!record.steps.empty()) run.step = static_cast<std::int64_t>(record.steps.back());
  run.seconds = record.seconds.empty() ? nan : record.seconds.back();
  const std::string planned = record.setting("train/steps");
  double steps = 0;
  if (std::from_chars(planned.data(), planned.data() + planned.size(), steps).ec == std::errc())
    run.planned = steps;
  const std::vector<double>* tokens = record.column("tokens");
  run.tokens = tokens == nullptr ? nan : tokens->back();
  const std::vector<double>* rate = record.column("tokens_per_second");
  run.tokens_per_second = rate == nullptr ? nan : median(*rate);
  add_evaluations(run);
  for (const char* key :
       {"aux_loss", "learning_rate", "grad_norm", "tokens_per_second", "dead_experts"})
    if (const std::vector<double>* column = record.column(key))
      run.curves[key] = curve_of(record, *column, false);
  for (const char* key : {"task_loss", "loss"})
    if (const std::vector<double>* column = record.column(key))
      run.curves[key] = curve_of(record, *column, true);
  add_load_curves(record, run.curves);
  run.imbalance = imbalance_of(record);
  add_loss(loss, run);
}

std::filesystem::path plain_path(const std::string& folder) {
  std::filesystem::path path = std::filesystem::absolute(folder).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();  // "runs/first/"
  return path;
}

std::string last_parts(const std::filesystem::path& path, std::size_t count) {
  std::vector<std::string> parts;
  for (const auto& part : path.relative_path()) parts.push_back(part.string());
  std::string name;
  for (std::size_t i = parts.size() - std::min(count, parts.size()); i < parts.size(); ++i)
    name += (name.empty() ? "" : "/") + parts[i];
  return name.empty() ? path.string() : name;
}

nlohmann::json number_json(double value) {
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(nullptr);
}

}  // namespace

std::vector<std::string> names_of_runs(const std::vector<std::string>& folders) {
  namespace fs = std::filesystem;
  std::vector<fs::path> paths;
  std::size_t longest = 1;
  std::set<fs::path> seen;
  for (const std::string& folder : folders) {
    std::error_code ignored;
    const fs::path real = fs::weakly_canonical(folder, ignored);
    if (!ignored && !seen.insert(real).second)
      throw InputError(folder + ": error: this run is named twice");
    paths.push_back(plain_path(folder));
    const auto parts = std::distance(paths.back().begin(), paths.back().end());
    longest = std::max(longest, static_cast<std::size_t>(parts));
  }
  std::vector<std::string> names(paths.size());
  for (std::size_t i = 0; i < paths.size(); ++i) {
    for (std::size_t count = 1; count <= longest; ++count) {
      names[i] = last_parts(paths[i], count);
      const auto same = std::count_if(paths.begin(), paths.end(), [&](const fs::path& other) {
        return last_parts(other, count) == names[i];
      });
      if (same == 1) break;
    }
    names[i] = plot::valid_utf8(names[i]);
  }
  return names;
}

std::vector<ReportRun> read_report_runs(const std::vector<std::string>& folders,
                                        std::string& loss) {
  const std::vector<std::string> names = names_of_runs(folders);
  std::vector<ReportRun> runs;
  const auto read = [&](std::size_t i) {
    ReportRun run;
    run.name = names[i];
    run.record = read_run(folders[i]);
    run.empty = run.record.empty();
    if (!run.record.steps.empty() && run.record.column("task_loss") == nullptr) loss = "loss";
    summarise(loss, run);
    run.record.steps = run.record.seconds = {};
    run.record.columns.clear();
    run.record.layers.clear();
    return run;
  };
  loss = "task_loss";
  for (std::size_t i = 0; i < folders.size(); ++i) runs.push_back(read(i));
  // One of them has no task loss: the figures of those before it are of another loss.
  if (loss == "loss")
    for (std::size_t i = 0; i < folders.size(); ++i) runs[i] = read(i);
  if (std::all_of(runs.begin(), runs.end(), [](const ReportRun& run) { return run.empty; }))
    throw InputError(runs.size() == 1 ? folders[0] + ": error: its metrics.jsonl has no lines yet"
                                      : "none of the " + std::to_string(runs.size()) +
                                            " runs has lines in its metrics.jsonl yet");
  std::size_t maps = 0;
  for (const ReportRun& run : runs)
    for (const EvaluationRecord& row : run.record.evaluations)
      if (!row.expert_load.empty()) {
        maps += row.expert_load.size();
        break;
      }
  const std::size_t cells =
      std::clamp<std::size_t>(240000 / std::max<std::size_t>(maps, 1), 500, 8000);
  for (ReportRun& run : runs) run.expert_load = loads_of(run.record, cells);
  return runs;
}

std::vector<std::pair<std::string, std::vector<std::string>>> deck_differences(
    const std::vector<ReportRun>& runs) {
  std::vector<std::string> keys;  // in the order of the first deck that has them
  std::vector<std::map<std::string, std::string>> decks;
  std::set<std::string> seen;
  for (const ReportRun& run : runs) {
    decks.emplace_back(run.record.deck.begin(), run.record.deck.end());
    for (const auto& [key, value] : run.record.deck)
      if (seen.insert(key).second) keys.push_back(key);
  }
  std::vector<std::pair<std::string, std::vector<std::string>>> differences;
  for (const std::string& key : keys) {
    std::vector<std::string> values;
    std::set<std::string> distinct;
    for (std::size_t i = 0; i < runs.size(); ++i) {
      const auto found = decks[i].find(key);
      values.push_back(found == decks[i].end() ? "" : found->second);
      if (runs[i].record.deck_text) distinct.insert(values.back());
    }
    if (distinct.size() > 1) differences.emplace_back(key, values);
  }
  return differences;
}

nlohmann::json report_json(const std::vector<ReportRun>& runs, const std::string& loss) {
  nlohmann::json rows = nlohmann::json::array();
  for (const ReportRun& run : runs) {
    nlohmann::json last = nlohmann::json::object();
    for (const auto& [name, figure] : run.last)
      last[plot::valid_utf8(name)] = {{"value", number_json(figure.first)},
                                      {"step", figure.second}};
    nlohmann::json notes = nlohmann::json::array();
    for (const std::string& note : run.record.notes) notes.push_back(plot::valid_utf8(note));
    rows.push_back({{"name", run.name},
                    {"step", run.step},
                    {"planned_steps", run.planned ? number_json(*run.planned) : nullptr},
                    {"tokens", number_json(run.tokens)},
                    {"seconds", number_json(run.seconds)},
                    {"median_tokens_per_second", number_json(run.tokens_per_second)},
                    {"last_loss", number_json(run.last_loss)},
                    {"tail_loss", number_json(run.tail_loss)},
                    {"tail_steps", run.tail_steps},
                    {"not_finite", run.not_finite},
                    {"skipped", run.record.skipped},
                    {"best_eval_loss", run.best_loss ? number_json(*run.best_loss) : nullptr},
                    {"best_eval_step", run.best_loss ? nlohmann::json(run.best_step) : nullptr},
                    {"last_evaluation", last},
                    {"samples", run.record.samples_in_file},
                    {"notes", notes}});
  }
  nlohmann::json differences = nlohmann::json::object();
  for (const auto& [key, values] : deck_differences(runs)) {
    nlohmann::json& entry = differences[plot::valid_utf8(key)] = nlohmann::json::array();
    for (std::size_t i = 0; i < values.size(); ++i)
      entry.push_back(values[i].empty() ? nlohmann::json(nullptr)
                                        : nlohmann::json(plot::valid_utf8(values[i])));
  }
  return {{"loss", loss}, {"runs", rows}, {"deck_differences", differences}};
}

}  // namespace kokomoe::app
