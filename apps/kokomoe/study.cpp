// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "command.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/parallel/agree.hpp"
#include "kokomoe/study/run_study.hpp"
#include "kokomoe/study/study_report.hpp"
#include "kokomoe/train/run_control.hpp"
#include "plot/line_plot.hpp"
#include "plot/page.hpp"
#include "plot/svg.hpp"

#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>

namespace kokomoe::app {

namespace {

struct Options {
  std::string deck, folder, wall, json;
  std::vector<std::string> overrides;
};

/// NaN is null.
nlohmann::json spread(const MeanAndSpread& value) {
  const auto number = [](double x) {
    return std::isfinite(x) ? nlohmann::json(x) : nlohmann::json();
  };
  return {
      {"mean", number(value.mean)}, {"deviation", number(value.deviation)}, {"count", value.count}};
}

nlohmann::json json_of(const StudyReport& report) {
  nlohmann::json rows = nlohmann::json::array();
  for (const StudyRow& row : report.rows) {
    nlohmann::json runs = nlohmann::json::array();
    for (const StudyRun& run : row.runs) {
      nlohmann::json curve = nlohmann::json::array();
      for (const StudyPoint& point : run.curve)
        curve.push_back({{"step", point.step}, {"seconds", point.seconds}, {"value", point.value}});
      runs.push_back({{"seed", run.seed}, {"seconds", run.seconds}, {"curve", curve}});
      if (!run.failure.empty()) runs.back()["failed"] = run.failure;
    }
    rows.push_back(
        {{"name", row.variant.name},
         {"overrides", row.variant.overrides},
         {"last", spread(row.last)},
         {"difference", spread(row.difference)},
         {"step_ratio", spread(row.step_ratio)},
         {"second_ratio", spread(row.second_ratio)},
         {"reached", row.reached},
         {"steps", row.steps},
         {"step_seconds",
          std::isfinite(row.step_seconds) ? nlohmann::json(row.step_seconds) : nlohmann::json()},
         {"runs", runs}});
  }
  return {{"title", report.config.title},
          {"figure", report.config.figure},
          {"reference", report.config.reference},
          {"steps", report.steps},
          {"seconds", report.seconds},
          {"target", report.target},
          {"variants", rows}};
}

/// The figure against steps, or against seconds, of all variants: means, with bands of the spread.
std::string curves(const StudyReport& report, bool seconds) {
  plot::LinePlot plot;
  plot.id = seconds ? "by_seconds" : "by_steps";
  plot.x_label = seconds ? "seconds of training" : "step";
  plot.y_label = report.config.figure + ", held out";
  plot.about = plot.y_label + " of each variant against " + plot.x_label;
  for (const bool band : {true, false}) {
    int style = 0;
    for (const StudyRow& row : report.rows) {
      const StudyCurve mean = mean_curve(row);
      plot::Curve curve{row.variant.name,
                        style++,
                        band ? plot::Curve::Look::band : plot::Curve::Look::line,
                        {},
                        {}};
      for (std::size_t i = 0; i < mean.mean.size(); ++i) {
        const double x = seconds ? mean.seconds[i] : mean.step[i];
        const double spread = band ? mean.deviation[i] : 0;
        curve.points.push_back({x, mean.mean[i] - spread});
        if (band) curve.upper.push_back({x, mean.mean[i] + spread});
      }
      plot.curves.push_back(std::move(curve));
    }
  }
  return plot::figure(seconds ? "Against time" : "Against steps",
                      "Means over the seeds; bands: their standard deviation.", plot::draw(plot));
}

std::string page(const StudyReport& report) {
  const StudyConfig& config = report.config;
  const auto cell = [](const std::string& text) { return "<td>" + plot::escape(text) + "</td>"; };
  std::vector<std::string> names;
  std::string table, list;
  for (const StudyRow& row : report.rows) {
    names.push_back(row.variant.name);
    const bool reference = row.variant.name == config.reference;
    std::string overrides;
    for (const std::string& one : row.variant.overrides) overrides += " " + plot::escape(one);
    list += "<li><strong>" + plot::escape(row.variant.name) + "</strong>:" + overrides + "</li>\n";
    table +=
        "<tr><th scope=\"row\">" + plot::escape(row.variant.name) + "</th>" +
        cell(with_spread(row.last, 4)) + cell(reference ? "" : with_spread(row.difference, 4)) +
        cell(reference ? ""
                       : std::to_string(row.reached) + " of " + std::to_string(row.last.count)) +
        cell(reference ? "1" : with_spread(row.step_ratio, 2)) +
        cell(reference ? "1" : with_spread(row.second_ratio, 2)) +
        cell(milliseconds(row.step_seconds)) + "</tr>\n";
  }
  const std::string title = config.title.empty() ? "Study of " + config.deck : config.title;
  const std::string of = plot::escape(config.reference);
  return plot::html_page(
      title, "<h1>" + plot::escape(title) + "</h1>\n" + plot::legend(names) +
                 "<div class=\"plots\">" + curves(report, false) + curves(report, true) +
                 "</div>\n<table><thead><tr><th>variant</th><th>" + plot::escape(config.figure) +
                 " at the end</th><th>less " + of + "'s, same seed</th><th>reached it</th><th>" +
                 of + "'s steps over its own</th><th>and seconds</th><th>ms a step</th>" +
                 "</tr></thead><tbody>\n" + table + "</tbody></table>\n<p>" +
                 plot::escape(study_note(report)) + "</p>\n<h2>Variants of " +
                 plot::escape(config.deck) + "</h2>\n<ul>\n" + list + "</ul>\n");
}

void write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.flush();
  if (!file) throw Error("\"" + path + "\" cannot be written");
}

int study(const Options& options, const Communicator& communicator) {
  const Deck deck = Deck::load(options.deck, study_schema(), options.overrides);
  const StudyConfig config = read_study_deck(deck);
  StudyOptions how;
  how.folder = options.folder;
  how.wall_seconds = options.wall.empty() ? 0 : parse_duration(options.wall);
  how.say = [&](const std::string& line) {
    if (communicator.is_root()) std::cout << line << std::endl;
  };
  if (run_study(config, how, communicator) == StudyEnd::stopped) return stopped_early;
  int status = done;
  run_on_root(communicator, [&] {
    const StudyReport report = summarise_study(config, options.folder);
    if (!report.failures.empty()) status = failed;
    const std::string title = config.title.empty() ? "" : "# " + config.title + "\n\n";
    const std::string table = study_table(report) + "\n" + study_note(report);
    write_file(options.folder + "/table.md", title + table);
    write_file(options.folder + "/study.toml", deck.effective());
    write_file(options.folder + "/study.json", json_of(report).dump(1) + "\n");
    write_file(options.folder + "/study.html", page(report));
    if (options.json != "-") std::cout << '\n' << table;
    write_json(options.json, json_of(report));
  });
  communicator.broadcast(&status, sizeof status);
  return status;
}

}  // namespace

void add_study(CLI::App& program, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = program.add_subcommand(
      "study", "train variants of a deck over seeds, and compare them in a table and plots");
  command->add_option("-i,--input", options->deck, "the study's deck (TOML)")->required();
  command
      ->add_option(
          "-d,--directory", options->folder,
          "folder of its runs, study.html, table.md and study.json; gone on with when it is there")
      ->required();
  command->add_option("-t,--time", options->wall,
                      "wall limit hh:mm:ss: leave with code 75 before it; run again to go on");
  command->add_option("--json", options->json, "write figures to a file, or - for standard output");
  command->add_option("overrides", options->overrides, "study/key=value ...");
  command->footer(
      "Example: kokomoe study -i inputs/studies/convergence.toml -d runs/convergence\n"
      "An override for every run: 'study/overrides=[\"train/steps=100\"]'\n"
      "Exit code 1 when some run's loss was not finite: the table says which; the others stand.");
  command->callback([options, &action] {
    action = [options](const Communicator& communicator) {
      if (communicator.is_root()) require_json(options->json);
      return study(*options, communicator);
    };
  });
}

}  // namespace kokomoe::app
