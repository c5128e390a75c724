// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/study/run_study.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/io/json_lines.hpp"
#include "kokomoe/parallel/agree.hpp"
#include "kokomoe/train/progress.hpp"
#include "kokomoe/train/run_folder.hpp"
#include "kokomoe/train/training_run.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>

namespace kokomoe {

namespace {

constexpr double unknown = std::numeric_limits<double>::quiet_NaN();

/// "NAME: key=value key=value".
StudyVariant read_variant(const Deck& deck, const std::string& text) {
  StudyVariant variant;
  const std::size_t colon = text.find(':');
  variant.name = text.substr(0, colon);
  const bool plain = !variant.name.empty() &&
                     std::all_of(variant.name.begin(), variant.name.end(), [](unsigned char c) {
                       return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.' || c == '+';
                     });
  if (colon == text.npos || !plain || variant.name[0] == '.')
    deck.refuse(
        "study/variants",
        "\"" + text + "\" is not NAME: section/key=value ..., NAME of letters, digits, _ - . +");
  std::istringstream words(text.substr(colon + 1));
  for (std::string word; words >> word;) variant.overrides.push_back(word);
  return variant;
}

std::vector<std::string> overrides_of(const StudyConfig& config, const StudyVariant& variant,
                                      std::int64_t seed) {
  std::vector<std::string> all = config.overrides;
  all.insert(all.end(), variant.overrides.begin(), variant.overrides.end());
  const std::string mark = "{seed}", number = std::to_string(seed);
  for (std::string& text : all)
    for (auto at = text.find(mark); at != text.npos; at = text.find(mark, at + number.size()))
      text.replace(at, mark.size(), number);
  all.push_back("run/seed=" + number);
  return all;
}

std::string folder_of(const std::string& study, const StudyVariant& variant, std::int64_t seed) {
  return study + "/runs/" + variant.name + "/seed_" + std::to_string(seed);
}

/// Refuses a run folder that another deck was trained in.
void require_same_deck(const std::string& folder, const Deck& deck) {
  const std::string path = folder + "/effective.toml";
  std::ifstream file(path);
  if (!file) throw InputError(path + ": cannot be opened");
  std::stringstream text;
  text << file.rdbuf();
  const Deck before = parse_deck(text.str(), path);
  const Schema schema = task_of(deck).schema("");
  for (const KeySpec& key : schema.keys())
    if (!before.known(key.name) || before.toml(key.name) != deck.toml(key.name))
      throw InputError(folder + " was trained with " + key.name + " = " +
                       (before.known(key.name) ? before.toml(key.name) : "nothing") + ", not " +
                       deck.toml(key.name) + ": give this study a folder of its own");
}

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

StudyRun read_run(const std::string& folder, const std::string& figure) {
  const std::string path = folder + "/metrics.jsonl";
  std::ifstream file(path);
  if (!file) throw InputError(path + ": cannot be opened; is the study done?");
  StudyRun run;
  std::vector<double> steps;
  std::size_t number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    const nlohmann::json row = nlohmann::json::parse(line, nullptr, false);
    if (!row.is_object())
      throw InputError(path + ":" + std::to_string(number) + ": no JSON object");
    if (row.contains("seconds")) {
      steps.push_back(row.at("seconds").get<double>());
      run.seconds += steps.back();
    }
    if (!row.contains("eval_loss")) continue;
    const auto found = row.find(figure);
    if (found == row.end() || !(found->is_number() || found->is_null()))
      throw InputError(path + ":" + std::to_string(number) + ": no \"" + figure + "\"");
    run.curve.push_back({row.at("step").get<std::int64_t>(), run.seconds,
                         found->is_null() ? unknown : found->get<double>()});
  }
  if (run.curve.empty()) throw InputError(path + ": no evaluation");
  std::sort(steps.begin(), steps.end());
  if (!steps.empty()) run.median_step = steps[steps.size() / 2];
  return run;
}

}  // namespace

Schema study_schema() {
  Schema schema;
  schema.add(KeySpec::text("study/title", "", "above the table"))
      .add(KeySpec::text("study/deck", "", "that all variants change").required())
      .add(KeySpec::list("study/overrides", {}, "section/key=value for all variants; {seed} is a run's seed"))
      .add(KeySpec::list("study/variants", {}, "\"NAME: section/key=value ...\" each").required())
      .add(KeySpec::numbers("study/seeds", {1, 2, 3, 4, 5}, "run/seed of each variant's runs")
               .range(0, 1099511627775.0))
      .add(KeySpec::text("study/reference", "", "variant to compare with; empty = the first"))
      .add(KeySpec::text("study/figure", "eval_loss",
                         "of evaluations: eval_loss, bits_per_byte, accuracy, ..."))
      .add(KeySpec::boolean("study/larger_is_better", false, "of the figure"));
  return schema;
}

StudyConfig read_study_deck(const Deck& deck) {
  StudyConfig config;
  config.title = deck.text("study/title");
  config.deck = deck.text("study/deck");
  config.overrides = deck.list("study/overrides");
  config.figure = deck.text("study/figure");
  config.larger_is_better = deck.boolean("study/larger_is_better");
  std::set<std::string> names;
  for (const std::string& text : deck.list("study/variants")) {
    config.variants.push_back(read_variant(deck, text));
    if (!names.insert(config.variants.back().name).second)
      deck.refuse("study/variants", "\"" + config.variants.back().name + "\" is there twice");
  }
  if (config.variants.empty()) deck.refuse("study/variants", "names no variant");
  for (const double seed : deck.numbers("study/seeds")) {
    const auto whole = static_cast<std::int64_t>(seed);
    if (static_cast<double>(whole) != seed) deck.refuse("study/seeds", "seeds are whole numbers");
    if (std::find(config.seeds.begin(), config.seeds.end(), whole) != config.seeds.end())
      deck.refuse("study/seeds", std::to_string(whole) + " is there twice");
    config.seeds.push_back(whole);
  }
  if (config.seeds.empty()) deck.refuse("study/seeds", "names no seed");
  config.reference = deck.text("study/reference");
  if (config.reference.empty()) config.reference = config.variants.front().name;
  if (names.count(config.reference) == 0)
    deck.refuse("study/reference", "there is no variant \"" + config.reference + "\"");
  for (const StudyVariant& variant : config.variants) {
    std::vector<std::string> notes;
    const Deck one = load_deck(config.deck, overrides_of(config, variant, config.seeds.front()));
    const std::unique_ptr<Task> task = task_of(one).read(one, notes);
    bool heldout = false;
    for (const std::string& key : task_of(one).heldout_keys)
      heldout = heldout || !one.list(key).empty();
    if (!heldout)
      deck.refuse("study/deck", "\"" + config.deck + "\" holds nothing out to compare by");
  }
  return config;
}

bool run_study(const StudyConfig& config, const StudyOptions& options,
               const Communicator& communicator) {
  const auto begin = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  const std::size_t all = config.seeds.size() * config.variants.size();
  std::size_t number = 0;
  for (const std::int64_t seed : config.seeds)
    for (const StudyVariant& variant : config.variants) {
      ++number;
      const std::string folder = folder_of(options.folder, variant, seed);
      const std::vector<std::string> overrides = overrides_of(config, variant, seed);
      const Deck deck = load_deck(config.deck, overrides);
      bool done = false;
      run_on_root(communicator, [&] {
        std::error_code code;
        std::filesystem::create_directories(folder, code);
        if (code) throw InputError(folder + ": cannot be made: " + code.message());
        if (!has_checkpoint(folder)) return;
        require_same_deck(folder, deck);
        done = read_manifest(resolve_checkpoint(folder)).step == deck.integer("train/steps");
      });
      communicator.broadcast(&done, sizeof done);
      const std::string name = "[" + std::to_string(number) + "/" + std::to_string(all) + "] " +
                               variant.name + ", seed " + std::to_string(seed);
      if (!done) {
        TrainingOptions training;
        training.deck = config.deck;
        training.run_folder = folder;
        training.resume = "last";
        training.overrides = overrides;
        training.quiet = true;
        if (options.wall_seconds > 0)
          training.wall_seconds = std::max(1.0, options.wall_seconds - seconds());
        if (!train(training, communicator)) {
          options.say(name + ": stopped; run the study again to go on");
          return false;
        }
      }
      if (!communicator.is_root()) continue;
      const StudyRun run = read_run(folder, config.figure);
      char line[96];
      std::snprintf(line, sizeof line, ": %s %.4f after %lld steps, %s", config.figure.c_str(),
                    run.curve.back().value, static_cast<long long>(run.curve.back().step),
                    human_time(run.seconds).c_str());
      options.say(name + line + (done ? " (was there)" : ""));
    }
  return true;
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
  const StudyRow* reference = nullptr;
  report.rows.reserve(config.variants.size());
  for (const StudyVariant& variant : config.variants) {
    StudyRow row;
    row.variant = variant;
    std::vector<double> last, steps;
    for (const std::int64_t seed : config.seeds) {
      row.runs.push_back(read_run(folder_of(folder, variant, seed), config.figure));
      row.runs.back().seed = seed;
      last.push_back(row.runs.back().curve.back().value);
      steps.push_back(row.runs.back().median_step);
      report.seconds += row.runs.back().seconds;
      report.steps = row.runs.back().curve.back().step;
    }
    row.last = mean_of(last);
    std::sort(steps.begin(), steps.end());
    row.step_seconds = steps[steps.size() / 2];
    report.rows.push_back(std::move(row));
    if (variant.name == config.reference) reference = &report.rows.back();
  }
  report.target = reference->last.mean;
  for (StudyRow& row : report.rows) {
    std::vector<double> differences, step_ratios, second_ratios;
    for (std::size_t i = 0; i < row.runs.size(); ++i) {
      differences.push_back(row.runs[i].curve.back().value - reference->runs[i].curve.back().value);
      // To where the reference itself comes with this seed, at its end.
      const double goal = reference->runs[i].curve.back().value;
      const auto [step, second] = first_reach(row.runs[i].curve, goal, config.larger_is_better);
      const auto [own_step, own_second] =
          first_reach(reference->runs[i].curve, goal, config.larger_is_better);
      if (std::isnan(step)) continue;
      ++row.reached;
      step_ratios.push_back(own_step / step);
      second_ratios.push_back(own_second / second);
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
  std::size_t points = row.runs.front().curve.size();
  for (const StudyRun& run : row.runs) points = std::min(points, run.curve.size());
  for (std::size_t p = 0; p < points; ++p) {
    std::vector<double> values, times;
    for (const StudyRun& run : row.runs) {
      values.push_back(run.curve[p].value);
      times.push_back(run.curve[p].seconds);
    }
    const MeanAndSpread value = mean_of(values);
    curve.step.push_back(static_cast<double>(row.runs.front().curve[p].step));
    curve.seconds.push_back(mean_of(times).mean);
    curve.mean.push_back(value.mean);
    curve.deviation.push_back(value.count > 1 ? value.deviation : 0);
  }
  return curve;
}

std::string study_table(const StudyReport& report) {
  const StudyConfig& config = report.config;
  std::string text = "| variant | " + config.figure + " at the end | less " + config.reference +
                     "'s, same seed | reached it | " + config.reference +
                     "'s steps over its own | and seconds | ms a step |\n"
                     "| --- | --- | --- | --- | --- | --- | --- |\n";
  for (const StudyRow& row : report.rows) {
    const bool reference = row.variant.name == config.reference;
    char step[32];
    std::snprintf(step, sizeof step, "%.0f", 1e3 * row.step_seconds);
    text +=
        "| " + row.variant.name + " | " + with_spread(row.last, 4) + " | " +
        (reference ? "" : with_spread(row.difference, 4)) + " | " +
        (reference ? "" : std::to_string(row.reached) + " of " + std::to_string(row.runs.size())) +
        " | " + (reference ? "1" : with_spread(row.step_ratio, 2)) + " | " +
        (reference ? "1" : with_spread(row.second_ratio, 2)) + " | " + step + " |\n";
  }
  return text;
}

std::string study_note(const StudyReport& report) {
  const StudyConfig& config = report.config;
  return "Mean ± standard deviation over " + std::to_string(config.seeds.size()) + " seed(s), " +
         std::to_string(report.steps) + " steps each, " + human_time(report.seconds) +
         " of training in all. \"Reached it\": runs that came to the reference's last " +
         config.figure + " of the same seed; ratios are over those alone.\n";
}

}  // namespace kokomoe
