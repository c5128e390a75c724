// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "plot/bar_plot.hpp"
#include "plot/heat_map.hpp"
#include "plot/line_plot.hpp"
#include "plot/page.hpp"
#include "plot/svg.hpp"
#include "report_page.hpp"

#include <algorithm>
#include <cmath>

namespace kokomoe::app {

namespace {

using Look = plot::Curve::Look;

/// Figures of evaluations that get a plot each.
constexpr std::size_t most_figures = 24;
/// A plot whose largest value is as many times its smallest is logarithmic.
constexpr double log_ratio = 30;

struct TimeUnit {
  double seconds;
  const char* name;
};

TimeUnit time_unit(const std::vector<ReportRun>& runs) {
  double longest = 0;
  for (const ReportRun& run : runs)
    if (std::isfinite(run.seconds)) longest = std::max(longest, run.seconds);
  if (longest < 120) return {1, "s"};
  if (longest < 7200) return {60, "min"};
  return longest < 3 * 86400 ? TimeUnit{3600, "h"} : TimeUnit{86400, "d"};
}

bool log_helps(const std::vector<plot::Curve>& curves) {
  plot::Range range;
  for (const plot::Curve& curve : curves)
    if (curve.look != Look::marks)
      for (const plot::Point& point : curve.points) range.add(point.y);
  return !range.empty() && range.low() > 0 && range.high() > log_ratio * range.low();
}

/// The steps' values, pale, with their means over them; or a line alone where there are few.
void add_curves(const ReportRun& run, int style, const plot::Points& raw,
                const plot::Points& smoothed, std::vector<plot::Curve>& curves) {
  if (smoothed.empty()) {
    curves.push_back({run.name, style, Look::line, raw});
    return;
  }
  curves.push_back({run.name, style, Look::thin, raw});
  curves.push_back({run.name + ", mean", style, Look::line, smoothed});
}

bool covers(const plot::Curve& later, const plot::Curve& earlier) {
  if (later.look != earlier.look || later.look == Look::thin || later.look == Look::marks)
    return false;
  const std::size_t shared = std::min(later.points.size(), earlier.points.size());
  const auto same = [](const plot::Point& a, const plot::Point& b) {
    return a.x == b.x && (a.y == b.y || !(std::isfinite(a.y) || std::isfinite(b.y)));
  };
  return shared > 1 && std::equal(later.points.begin(),
                                  later.points.begin() + static_cast<std::ptrdiff_t>(shared),
                                  earlier.points.begin(), same);
}

/// "On the same line: a and b." Curves that are equal look like one.
std::string coinciding(const std::vector<ReportRun>& runs, const std::vector<plot::Curve>& curves) {
  std::string text;
  std::vector<bool> named(curves.size());
  const auto run_of = [&](const plot::Curve& curve) {
    return runs[static_cast<std::size_t>(curve.style)].name;
  };
  for (std::size_t i = 0; i < curves.size(); ++i) {
    if (named[i]) continue;
    std::vector<std::string> names = {run_of(curves[i])};
    for (std::size_t j = i + 1; j < curves.size(); ++j) {
      if (!covers(curves[j], curves[i])) continue;
      named[j] = true;
      names.push_back(run_of(curves[j]));
    }
    if (names.size() == 1) continue;
    const std::string line = "On the same line: " + joined(names) + ".";
    // Evaluations lie on each other where the training losses do.
    if (text.find(line) == std::string::npos) text += (text.empty() ? "" : " ") + line;
  }
  return text;
}

std::string finish(const std::vector<ReportRun>& runs, plot::LinePlot& plot,
                   const std::string& title, std::string note,
                   const std::vector<std::string>& without) {
  if (!without.empty())
    note += (note.empty() ? "" : " ") + ("Not known of " + joined(without) + ".");
  const std::string together = coinciding(runs, plot.curves);
  note += (note.empty() || together.empty() ? "" : " ") + together;
  plot.about = title + (plot.x_label.empty() ? "" : " against " + plot.x_label);
  return plot::figure(title, note, plot::draw(plot));
}

struct ColumnPlot {
  const char* column;
  const char* title;
  const char* unit;
  const char* note = "";
  bool from_zero = false;
  bool may_log = false;
  bool smooth = true;
};

/// One plot of a column over the steps, "" when no run has it.
std::string column_figure(const std::vector<ReportRun>& runs, const ColumnPlot& what) {
  plot::LinePlot plot;
  plot.id = what.column;
  plot.x_label = "step";
  plot.x_from_zero = true;
  plot.y_label = what.unit;
  plot.from_zero = what.from_zero;
  std::vector<std::string> without;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const auto found = runs[i].curves.find(what.column);
    if (found == runs[i].curves.end()) {
      without.push_back(runs[i].name);
      continue;
    }
    const RunCurve& curve = found->second;
    add_curves(runs[i], static_cast<int>(i), curve.raw,
               what.smooth ? curve.smoothed : plot::Points(), plot.curves);
  }
  if (plot.curves.empty()) return "";
  plot.log_y = what.may_log && log_helps(plot.curves);
  return finish(runs, plot, what.title, what.note, without);
}

/// What a plot of the loss shows.
struct LossView {
  const char* id;
  const char* title;
  const TimeUnit* unit;  ///< null: against steps
  double from;           ///< only what is not before
};

plot::Points cut(plot::Points points, const LossView& view) {
  for (plot::Point& point : points)
    if (view.unit != nullptr) point.x /= view.unit->seconds;
  std::erase_if(points, [&](const plot::Point& point) { return point.x < view.from; });
  return points;
}

std::string loss_figure(const std::vector<ReportRun>& runs, const std::string& loss,
                        const LossView& view) {
  const bool by_step = view.unit == nullptr;
  plot::LinePlot plot;
  plot.id = view.id;
  plot.x_label = by_step ? "step" : std::string("time of training (") + view.unit->name + ")";
  plot.y_label = "loss (nats)";
  plot.height = 380;
  plot.x_from_zero = view.from == 0;
  std::vector<std::string> without;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const ReportRun& run = runs[i];
    const int style = static_cast<int>(i);
    const auto found = run.curves.find(loss);
    if (found == run.curves.end()) {
      without.push_back(run.name);
    } else {
      const RunCurve& curve = found->second;
      add_curves(run, style, cut(by_step ? curve.raw : curve.raw_time, view),
                 cut(by_step ? curve.smoothed : curve.smoothed_time, view), plot.curves);
    }
    plot::Points evaluations;
    for (const EvaluationRecord& row : run.record.evaluations)
      for (const auto& [name, value] : row.figures)
        if (name == "eval_loss")
          evaluations.push_back({by_step ? static_cast<double>(row.step) : row.seconds, value});
    evaluations = cut(evaluations, view);
    if (!evaluations.empty())
      plot.curves.push_back({run.name + ", eval_loss", style, Look::points, evaluations});
    const plot::Points lost = cut(run.lost, view);
    if (by_step && !lost.empty())
      plot.curves.push_back({run.name + ": loss not finite", style, Look::marks, lost});
  }
  plot.log_y = log_helps(plot.curves);
  return finish(runs, plot, view.title,
                "Lines: training (" + loss +
                    "), pale each step, strong its mean. Dots: held-out text (eval_loss).",
                without);
}

std::string evaluation_figure(const std::vector<ReportRun>& runs, const std::string& name,
                              std::size_t number) {
  plot::LinePlot plot;
  plot.id = "eval_" + std::to_string(number);
  plot.x_label = "step";
  plot.x_from_zero = true;
  std::vector<std::string> without;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    plot::Points points;
    for (const EvaluationRecord& row : runs[i].record.evaluations)
      for (const auto& [figure, value] : row.figures)
        if (figure == name) points.push_back({static_cast<double>(row.step), value});
    if (points.empty())
      without.push_back(runs[i].name);
    else
      plot.curves.push_back({runs[i].name, static_cast<int>(i), Look::points, std::move(points)});
  }
  plot.log_y = log_helps(plot.curves);
  return finish(runs, plot, name, "", without);
}

plot::HeatMap heat_map(const RunGrid& grid, const plot::HeatScale& scale) {
  plot::HeatMap map;
  map.x_label = "step";
  map.width = 390;
  map.x = grid.steps;
  map.rows = grid.rows;
  map.row_stride = grid.row_stride;
  map.values = grid.values;
  map.scale = scale;
  return map;
}

std::string in_run(std::size_t i, const std::string& html) {
  return "<div class=\"" + plot::style_class(static_cast<int>(i)) + "\">" + html + "</div>\n";
}

std::string imbalance_maps(const std::vector<ReportRun>& runs) {
  const plot::HeatScale scale{{1.1, 1.25, 1.5, 2, 3, 4, 6, 8}};
  std::string html;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const ReportRun& run = runs[i];
    if (run.imbalance.rows == 0) continue;
    plot::HeatMap map = heat_map(run.imbalance, scale);
    map.id = "imbalance_" + std::to_string(i);
    map.about = "Load of the busiest expert over the mean, " + run.name;
    map.y_label = "MoE layer";
    html += in_run(i, plot::figure(run.name, "", plot::draw(map)));
  }
  if (html.empty()) return "";
  return "<h3>Busiest expert over the mean, by layer</h3>\n" +
         plot::heat_key(scale, "Load of the busiest expert over the mean, 1 when balanced") +
         "<div class=\"plots small runs\">" + html + "</div>\n";
}

/// The last evaluation's shares in each layer, or of training's last steps where there are none.
std::string load_maps(const std::vector<ReportRun>& runs) {
  const plot::HeatScale scale{{0.125, 0.25, 0.5, 0.8, 1.25, 2, 4, 8}, true};
  std::string html = "<h3>Load of each expert</h3>\n", maps;
  std::vector<std::string> without;
  std::size_t count = 0;
  for (const ReportRun& run : runs) count += run.expert_load.size();
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const ReportRun& run = runs[i];
    if (run.expert_load.empty()) {
      without.push_back(run.name);
      continue;
    }
    std::string figures;
    for (std::size_t layer = 0; layer < run.expert_load.size(); ++layer) {
      const RunGrid& grid = run.expert_load[layer];
      plot::HeatMap map = heat_map(grid, scale);
      map.id = "load_" + std::to_string(i) + "_" + std::to_string(layer);
      map.about = "Load of each expert of MoE layer " + std::to_string(layer) + ", " + run.name;
      map.y_label = "expert";
      figures += plot::figure(
          "MoE layer " + std::to_string(layer),
          grid.row_stride > 1
              ? "A row is the busiest of " + std::to_string(grid.row_stride) + " experts."
              : "",
          plot::draw(map));
    }
    maps +=
        in_run(i, std::string("<details") + (count <= 24 ? " open" : "") + "><summary>" +
                      plot::swatch(static_cast<int>(i)) + plot::escape(run.name) + "</summary>\n" +
                      "<div class=\"plots small\">" + figures + "</div></details>");
  }
  if (!maps.empty())
    html += plot::heat_key(scale,
                           "An expert's share of its layer's assignments over the fair "
                           "share, at evaluations") +
            "<div class=\"runs\">" + maps + "</div>\n";
  if (!without.empty())
    html += missing("No expert_load in the evaluations of " + joined(without) + ".");
  return html;
}

/// By layer at the end: the last column of each run's map.
std::string imbalance_bars(const std::vector<ReportRun>& runs) {
  plot::BarPlot bars;
  bars.id = "imbalance_bars";
  bars.x_label = "MoE layer";
  bars.y_label = "busiest expert over the mean";
  bars.reference = 1;
  std::size_t rows = 0;
  for (const ReportRun& run : runs) rows = std::max(rows, run.imbalance.rows);
  if (rows == 0 || rows * runs.size() > 120) return "";
  for (std::size_t layer = 0; layer < rows; ++layer) {
    plot::BarPlot::Group group{std::to_string(layer), {}};
    for (std::size_t i = 0; i < runs.size(); ++i) {
      const RunGrid& grid = runs[i].imbalance;
      if (layer < grid.rows)
        group.bars.push_back(
            {runs[i].name, static_cast<int>(i), grid.values[(layer + 1) * grid.steps.size() - 1]});
    }
    bars.groups.push_back(std::move(group));
  }
  bars.about = "Busiest expert over the mean by layer at the end";
  return plot::figure("Load by layer at the end",
                      "Mean over the last hundredth of the steps; dashes: balanced.",
                      plot::draw(bars));
}

}  // namespace

std::string loss_section(const std::vector<ReportRun>& runs, const std::string& loss) {
  const TimeUnit unit = time_unit(runs);
  double last = 0;
  for (const ReportRun& run : runs) last = std::max(last, static_cast<double>(run.step));
  std::string html = "<h2>Loss</h2>\n" + plot::legend(run_names(runs)) + "<div class=\"plots\">" +
                     loss_figure(runs, loss, {"loss", "Loss by step", nullptr, 0}) +
                     loss_figure(runs, loss, {"loss_time", "Loss by time", &unit, 0});
  // Where curves have fallen far, what they differ in is seen only without the fall.
  double longest = 0;
  for (const ReportRun& run : runs)
    if (run.seconds > longest) longest = run.seconds;
  if (last >= 20)
    html +=
        loss_figure(runs, loss,
                    {"loss_late", "Loss by step, without the first quarter", nullptr, last / 4}) +
        loss_figure(runs, loss,
                    {"loss_time_late", "Loss by time, without the first quarter", &unit,
                     longest / unit.seconds / 4});
  return html + "</div>\n";
}

std::string evaluation_section(const std::vector<ReportRun>& runs) {
  std::vector<std::string> names;
  for (const ReportRun& run : runs)
    for (const auto& [name, value] : run.last)
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  std::stable_partition(names.begin(), names.end(),
                        [](const std::string& name) { return name == "eval_loss"; });
  std::string html = "<h2>Evaluations</h2>\n";
  if (names.empty()) return html + missing("No run has evaluated yet.");
  html += plot::legend(run_names(runs)) + "<div class=\"plots\">";
  for (std::size_t i = 0; i < names.size() && i < most_figures; ++i)
    html += evaluation_figure(runs, names[i], i);
  html += "</div>\n";
  if (names.size() > most_figures)
    html += missing(std::to_string(names.size() - most_figures) +
                    " more figures are in the table only.");
  return html;
}

std::string optimizer_section(const std::vector<ReportRun>& runs) {
  std::string html;
  html += column_figure(runs, {"learning_rate", "Learning rate", "", "", true, false, false});
  html += column_figure(runs, {"grad_norm", "Gradient norm", "", "Before clipping.", false, true});
  html += column_figure(runs, {"tokens_per_second", "Throughput", "tokens/s", "", true});
  html += column_figure(
      runs, {"aux_loss", "Auxiliary loss", "loss (nats)",
             "What balances the load, as it is added to the task's loss.", false, true});
  return "<h2>Optimisation</h2>\n" +
         (html.empty()
              ? missing("The metrics have no rates, norms or times.")
              : plot::legend(run_names(runs)) + "<div class=\"plots\">" + html + "</div>\n");
}

std::string expert_section(const std::vector<ReportRun>& runs) {
  std::string html;
  html += column_figure(
      runs, {"busiest", "Busiest expert, worst layer", "load over the mean", "1 when balanced."});
  html += column_figure(runs, {"spread", "Experts in use", "experts",
                               "As many as an even load of the same entropy would use; mean over "
                               "the MoE layers.",
                               true});
  html += column_figure(runs, {"dead_experts", "Dead experts", "experts",
                               "Without a token in a step; all MoE layers together.", true});
  html += imbalance_bars(runs);
  if (html.empty() && std::all_of(runs.begin(), runs.end(),
                                  [](const ReportRun& run) { return run.expert_load.empty(); }))
    return "<h2>Experts</h2>\n" +
           missing("The metrics have no loads: dense models, or another task's.");
  return "<h2>Experts</h2>\n" + plot::legend(run_names(runs)) + "<div class=\"plots\">" + html +
         "</div>\n" + imbalance_maps(runs) + load_maps(runs);
}

}  // namespace kokomoe::app
