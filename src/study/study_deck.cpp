// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/study/study_deck.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/train/task.hpp"

#include <algorithm>
#include <cctype>
#include <set>
#include <sstream>

namespace kokomoe {

namespace {

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

void refuse_seed(const Deck& deck, const char* key, const std::vector<std::string>& overrides) {
  for (const std::string& text : overrides)
    if (text.starts_with("run/seed="))
      deck.refuse(key, "\"" + text + "\": study/seeds says the seeds of all runs");
}

/// What every run of the study must have, so that there is something to compare.
void require_comparable(const Deck& study, const StudyConfig& config, const StudyTraining& run) {
  std::vector<std::string> notes;
  const TaskInfo& info = task_of(run.deck);
  info.read(run.deck, notes);
  const auto refuse = [&](const char* key, const std::string& message) {
    study.refuse(key, "variant \"" + run.variant->name + "\": " + message);
  };
  if (std::all_of(info.heldout_keys.begin(), info.heldout_keys.end(),
                  [&](const std::string& key) { return run.deck.list(key).empty(); }))
    refuse("study/deck", "\"" + config.deck + "\" holds nothing out to compare by");
  if (run.deck.integer("train/steps") == 0)
    refuse("study/variants", "train/steps = 0 leaves nothing to compare");
  const std::vector<std::string>& figures = info.figures;
  if (std::find(figures.begin(), figures.end(), config.figure) != figures.end()) return;
  std::string all;
  for (const std::string& figure : figures) all += (all.empty() ? "" : ", ") + figure;
  const std::string nearest = nearest_name(config.figure, figures);
  refuse("study/figure",
         "evaluations of run/task = \"" + info.name + "\" have no \"" + config.figure + "\"" +
             (nearest.empty() ? "" : ", did you mean \"" + nearest + "\"?") + " (" + all + ")");
}

}  // namespace

Schema study_schema() {
  Schema schema;
  schema.add(KeySpec::text("study/title", "", "above the table"))
      .add(KeySpec::text("study/deck", "", "that all variants change").required())
      .add(KeySpec::list("study/overrides", {},
                         "section/key=value for all variants; {seed} is a run's seed"))
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
  refuse_seed(deck, "study/overrides", config.overrides);
  std::set<std::string> names;
  for (const std::string& text : deck.list("study/variants")) {
    config.variants.push_back(read_variant(deck, text));
    refuse_seed(deck, "study/variants", config.variants.back().overrides);
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
  for (const StudyTraining& run : trainings_of(config)) require_comparable(deck, config, run);
  return config;
}

std::vector<StudyTraining> trainings_of(const StudyConfig& config) {
  std::vector<StudyTraining> runs;
  for (const std::int64_t seed : config.seeds)
    for (const StudyVariant& variant : config.variants) {
      std::vector<std::string> overrides = config.overrides;
      overrides.insert(overrides.end(), variant.overrides.begin(), variant.overrides.end());
      const std::string mark = "{seed}", number = std::to_string(seed);
      for (std::string& text : overrides)
        for (auto at = text.find(mark); at != text.npos; at = text.find(mark, at + number.size()))
          text.replace(at, mark.size(), number);
      overrides.push_back("run/seed=" + number);
      Deck deck = load_deck(config.deck, overrides);
      runs.push_back({&variant, seed, std::move(overrides), std::move(deck)});
    }
  return runs;
}

std::string StudyTraining::name() const {
  return variant->name + ", seed " + std::to_string(seed);
}

std::string StudyTraining::folder(const std::string& study) const {
  return study + "/runs/" + variant->name + "/seed_" + std::to_string(seed);
}

}  // namespace kokomoe
