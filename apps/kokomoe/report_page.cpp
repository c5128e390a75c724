// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "report_page.hpp"

#include "kokomoe/train/progress.hpp"
#include "plot/page.hpp"
#include "plot/svg.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace kokomoe::app {

using plot::escape;

namespace {

/// Longer texts of samples are cut there.
constexpr std::size_t longest_text = 2000;

std::string significant(double value) {
  if (!std::isfinite(value)) return "\u2013";
  char text[40];
  const double size = std::abs(value);
  const char* const format = size != 0 && (size < 1e-3 || size >= 1e7) ? "%.3e"
                             : size >= 1000                            ? "%.1f"
                             : size >= 100                             ? "%.2f"
                                                                       : "%.4f";
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string cell(const std::string& content, const char* kind = "") {
  return std::string("<td") + (*kind != 0 ? std::string(" class=\"") + kind + "\"" : "") + ">" +
         content + "</td>";
}

std::string small(const std::string& text) {
  return " <small>" + escape(text) + "</small>";
}

std::string run_head(const ReportRun& run, std::size_t style, const char* scope) {
  return std::string("<th scope=\"") + scope + "\">" + plot::swatch(static_cast<int>(style)) +
         escape(run.name) + "</th>";
}

/// Names of evaluations' figures, the loss first.
std::vector<std::string> figure_names(const std::vector<ReportRun>& runs) {
  std::vector<std::string> names;
  for (const ReportRun& run : runs)
    for (const auto& [name, value] : run.last)
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  std::stable_partition(names.begin(), names.end(),
                        [](const std::string& name) { return name == "eval_loss"; });
  return names;
}

/// Keys down, runs across; values are escaped here.
std::string run_table(const std::vector<ReportRun>& runs, const std::string& corner,
                      const std::vector<std::pair<std::string, std::vector<std::string>>>& rows) {
  std::string html = "<div class=\"scroll\"><table class=\"text\"><thead><tr><th scope=\"col\">" +
                     corner + "</th>";
  for (std::size_t i = 0; i < runs.size(); ++i) html += run_head(runs[i], i, "col");
  html += "</tr></thead><tbody>\n";
  for (const auto& [key, values] : rows) {
    html += "<tr><th scope=\"row\">" + escape(key) + "</th>";
    for (const std::string& value : values) html += cell(value.empty() ? "\u2013" : escape(value));
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

std::string steps_cell(const ReportRun& run) {
  std::string text = std::to_string(run.step);
  if (run.planned && *run.planned > static_cast<double>(run.step))
    return cell(text + small("of " + std::to_string(static_cast<std::int64_t>(*run.planned))));
  return cell(text);
}

std::string run_row(const ReportRun& run, std::size_t style, double best,
                    const std::vector<std::string>& figures, bool troubled) {
  std::string html = "<tr>" + run_head(run, style, "row") + steps_cell(run);
  html += run.best_loss
              ? cell(significant(*run.best_loss) + small("at " + std::to_string(run.best_step)),
                     *run.best_loss == best ? "best" : "")
              : cell("\u2013");
  for (const std::string& name : figures) {
    const auto found = run.last.find(name);
    if (found == run.last.end())
      html += cell("\u2013");
    else
      html += cell(significant(found->second.first) +
                   (found->second.second == run.step
                        ? ""
                        : small("at " + std::to_string(found->second.second))));
  }
  html += cell(significant(run.tail_loss));
  html += cell(std::isfinite(run.tokens) ? human_count(run.tokens) : "\u2013");
  html += cell(std::isfinite(run.seconds) ? human_time(run.seconds) : "\u2013");
  html +=
      cell(std::isfinite(run.tokens_per_second) ? human_count(run.tokens_per_second) : "\u2013");
  if (troubled)
    html += cell(std::to_string(run.record.skipped)) + cell(std::to_string(run.not_finite));
  return html + "</tr>\n";
}

std::string cut(const std::string& text) {
  if (text.size() <= longest_text) return escape(text);
  std::size_t end = longest_text;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return escape(text.substr(0, end)) + "\u2026 <small class=\"soft\">(" +
         std::to_string(text.size() - end) + " bytes more)</small>";
}

std::string sample_html(const SampleRecord& sample) {
  std::string html = "<div class=\"sample\">";
  const auto part = [&](const std::string& name, const std::string& text) {
    if (!name.empty()) html += "<b>" + escape(name) + "</b>";
    html += "<div>" + cut(text) + "</div>";
  };
  if (!sample.source.empty()) part("source", sample.source);
  if (!sample.reference.empty()) part("reference", sample.reference);
  part(sample.step ? "written at step " + std::to_string(*sample.step) : "written", sample.text);
  return html + "</div>\n";
}

std::string notes_of(const std::vector<ReportRun>& runs) {
  // What is true of several runs is said once.
  std::vector<std::pair<std::string, std::vector<std::string>>> notes;
  const auto add = [&](const ReportRun& run, const std::string& text) {
    const auto same = std::find_if(notes.begin(), notes.end(),
                                   [&](const auto& note) { return note.first == text; });
    if (same == notes.end())
      notes.push_back({text, {run.name}});
    else
      same->second.push_back(run.name);
  };
  for (const ReportRun& run : runs) {
    if (run.planned && static_cast<double>(run.step) < *run.planned)
      add(run, "at step " + std::to_string(run.step) + " of " +
                   std::to_string(static_cast<std::int64_t>(*run.planned)) +
                   ": under way, or ended early");
    if (run.record.evaluations.empty() && !run.empty) add(run, "no evaluations yet");
    if (run.not_finite > 0)
      add(run, "the loss of " + std::to_string(run.not_finite) +
                   " step(s) is not finite: gaps in its curve, crosses above it");
    for (const std::string& note : run.record.notes) add(run, note);
  }
  std::string items;
  for (const auto& [text, names] : notes)
    items += "<li><b>" + escape(joined(names)) + "</b>: " + escape(text) + "</li>\n";
  return items.empty() ? "" : "<ul class=\"notes\">\n" + items + "</ul>\n";
}

}  // namespace

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < names.size(); ++i)
    text += (i == 0 ? "" : i + 1 < names.size() ? ", " : " and ") + names[i];
  return text;
}

std::vector<std::string> run_names(const std::vector<ReportRun>& runs) {
  std::vector<std::string> names;
  for (const ReportRun& run : runs) names.push_back(run.name);
  return names;
}

std::string missing(const std::string& text) {
  return "<p class=\"missing\">" + escape(text) + "</p>\n";
}

std::string table_section(const std::vector<ReportRun>& runs, const std::string& loss) {
  const std::vector<std::string> figures = figure_names(runs);
  double best = std::numeric_limits<double>::infinity();
  for (const ReportRun& run : runs)
    if (run.best_loss) best = std::min(best, *run.best_loss);
  if (runs.size() == 1) best = -1;  // nothing to be better than
  std::string html = "<h2>Figures</h2>\n<div class=\"scroll\"><table class=\"figures\"><thead><tr>";
  const auto head = [&](const std::string& text, const std::string& more = "") {
    html +=
        "<th scope=\"col\">" + escape(text) + (more.empty() ? "" : "<br>" + escape(more)) + "</th>";
  };
  head("run");
  head("steps");
  head("best", "eval_loss");
  for (const std::string& name : figures) head("last", name);
  head(loss + ",", "last twentieth");
  head("tokens");
  head("time");
  head("tokens/s", "median");
  const bool troubled = std::any_of(runs.begin(), runs.end(), [](const ReportRun& run) {
    return run.record.skipped > 0 || run.not_finite > 0;
  });
  if (troubled) {
    head("updates", "skipped");
    head("losses", "not finite");
  }
  html += "</tr></thead><tbody>\n";
  for (std::size_t i = 0; i < runs.size(); ++i)
    html += run_row(runs[i], i, best, figures, troubled);
  return html +
         "</tbody></table></div>\n<p class=\"soft\">Time is that of training steps: evaluations, "
         "saves and waiting are not in it.</p>\n";
}

std::string deck_section(const std::vector<ReportRun>& runs) {
  std::string html = "<h2>What differs between the decks</h2>\n";
  std::size_t known = 0;
  for (const ReportRun& run : runs) known += run.record.deck_text ? 1 : 0;
  if (known < 2) return html + missing("Fewer than two runs have an effective.toml.");
  const auto differences = deck_differences(runs);
  if (differences.empty()) return html + missing("Nothing: all keys have the same values.");
  return html + run_table(runs, "key", differences);
}

std::string sample_section(const std::vector<ReportRun>& runs) {
  std::string html = "<h2>Samples</h2>\n";
  std::vector<std::string> without;
  std::string shown;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const RunRecord& record = runs[i].record;
    if (record.samples.empty()) {
      without.push_back(runs[i].name);
      continue;
    }
    shown += "<div class=\"" + plot::style_class(static_cast<int>(i)) + "\"><h3>" +
             plot::swatch(static_cast<int>(i)) + escape(runs[i].name) + "</h3>\n";
    if (record.samples.size() < record.samples_in_file)
      shown += "<p class=\"soft\">The last " + std::to_string(record.samples.size()) + " of " +
               std::to_string(record.samples_in_file) + " in samples.jsonl.</p>\n";
    for (const SampleRecord& sample : record.samples) shown += sample_html(sample);
    shown += "</div>\n";
  }
  if (!shown.empty()) html += "<div class=\"runs\">" + shown + "</div>\n";
  if (!without.empty())
    html += missing("No samples.jsonl, or an empty one: " + joined(without) + ".");
  return html;
}

std::string machine_section(const std::vector<ReportRun>& runs) {
  std::vector<std::string> keys;
  for (const ReportRun& run : runs)
    for (const auto& [key, value] : run.record.machine)
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
  std::string html = "<h2>Machine</h2>\n";
  if (keys.empty())
    return html + missing("No run has a machine.json: it is not known what they ran on.");
  std::vector<std::pair<std::string, std::vector<std::string>>> rows;
  for (const std::string& key : keys) {
    std::vector<std::string> values;
    for (const ReportRun& run : runs) {
      const auto& machine = run.record.machine;
      const auto found = std::find_if(machine.begin(), machine.end(),
                                      [&](const auto& entry) { return entry.first == key; });
      values.push_back(found == machine.end() ? "" : found->second);
    }
    rows.emplace_back(key, values);
  }
  return html + run_table(runs, "", rows);
}

std::string whole_decks(const std::vector<ReportRun>& runs) {
  std::string html = "<h2>Effective decks</h2>\n";
  for (const ReportRun& run : runs) {
    if (run.record.deck_text)
      html += "<details><summary>" + escape(run.name) + "/effective.toml</summary>\n<pre>" +
              escape(*run.record.deck_text) + "</pre></details>\n";
    else
      html += missing(run.name + " has no effective.toml.");
  }
  return html;
}

std::string report_page(const std::vector<ReportRun>& runs, const std::string& loss,
                        const std::string& when) {
  const std::vector<std::string> names = run_names(runs);
  const std::string title =
      names.size() <= 4 ? joined(names) : std::to_string(names.size()) + " runs";
  std::string body = "<h1>" + escape(title) + "</h1>\n<p class=\"soft\">" + escape(when) +
                     "</p>\n" + plot::legend(names) + notes_of(runs);
  body += table_section(runs, loss);
  if (runs.size() > 1) body += deck_section(runs);
  body += loss_section(runs, loss);
  body += evaluation_section(runs);
  body += optimizer_section(runs);
  body += expert_section(runs);
  body += sample_section(runs);
  body += machine_section(runs);
  body += whole_decks(runs);
  body +=
      "<footer><p>How the curves are drawn: a run of more steps than a plot has columns keeps, for "
      "each column, its smallest and its largest value, so that what happened in one step stays to "
      "be seen. Strong lines over pale ones are means over a fiftieth of the run's steps to either "
      "side, and over fewer near its ends. Vertical axes are linear where they do not say that "
      "they "
      "are logarithmic.</p></footer>\n";
  return plot::html_page(title + " \u2013 kokomoe", body);
}

}  // namespace kokomoe::app
