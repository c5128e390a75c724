// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "command.hpp"

#include "kokomoe/config.hpp"
#include "kokomoe/core/error.hpp"
#include "plot/svg.hpp"
#include "report_page.hpp"

#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <memory>

namespace kokomoe::app {

namespace {

struct ReportOptions {
  std::vector<std::string> runs;
  std::string output = "report.html", json;
};

/// Asked before runs are read, which may take a while.
void require_output(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored))
    throw InputError("-o: \"" + path + "\" is a folder");
  const std::string aside = path + ".tmp";
  {
    const std::ofstream file(aside, std::ios::app);
    if (!file) throw InputError("-o: \"" + path + "\" cannot be written");
  }
  std::filesystem::remove(aside, ignored);
}

/// Readers see the old page or the new one.
void replace_page(const std::string& path, const std::string& page) {
  const std::string aside = path + ".tmp";
  std::ofstream file(aside, std::ios::binary | std::ios::trunc);
  file << page;
  file.close();
  std::error_code code;
  if (file) std::filesystem::rename(aside, path, code);
  if (file && !code) return;
  std::error_code ignored;
  std::filesystem::remove(aside, ignored);
  throw Error("\"" + path + "\" cannot be written");
}

std::string written_when() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[64];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", &utc);
  return std::string("Written on ") + text + " by kokomoe report " KOKOMOE_VERSION;
}

int report(const ReportOptions& options) {
  const std::size_t most = plot::most_styles - 1;
  if (options.runs.size() > most)
    throw InputError("a report shows at most " + std::to_string(most) + " runs, not " +
                     std::to_string(options.runs.size()));
  require_json(options.json);
  require_output(options.output);
  std::string loss;
  const std::vector<ReportRun> runs = read_report_runs(options.runs, loss);
  const std::string page = report_page(runs, loss, written_when());
  replace_page(options.output, page);
  std::fprintf(options.json == "-" ? stderr : stdout, "%s: %zu run(s), %zu KiB\n",
               options.output.c_str(), runs.size(), (page.size() + 1023) / 1024);
  write_json(options.json, report_json(runs, loss));
  return done;
}

}  // namespace

void add_report(CLI::App& program, Action& action) {
  auto options = std::make_shared<ReportOptions>();
  CLI::App* command = program.add_subcommand(
      "report", "one HTML page on one or more runs: losses, loads, figures, decks");
  command->add_option("runs", options->runs, "run folders, under way or done")->required();
  command->add_option("-o,--output", options->output, "the page; default report.html");
  command->add_option("--json", options->json,
                      "write the figures to a file, or - for standard output");
  command->footer("Example: kokomoe report runs/first runs/switch -o both.html");
  command->callback([options, &action] {
    action = [options](const Communicator& communicator) -> int {
      return communicator.is_root() ? report(*options) : done;
    };
  });
}

}  // namespace kokomoe::app
