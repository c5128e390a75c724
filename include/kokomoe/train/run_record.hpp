// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace kokomoe {

/// A line of metrics.jsonl that no training step wrote: figures of an evaluation.
struct EvaluationRecord {
  std::int64_t step = 0;
  double seconds = 0;                                   ///< of training up to that step
  std::vector<std::pair<std::string, double>> figures;  ///< all numbers but the step, by name
  /// (MoE layers, experts): shares of the assignments; empty where the line has none.
  std::vector<std::vector<double>> expert_load;
};

/// A line of samples.jsonl: what a model wrote, and from what.
struct SampleRecord {
  std::optional<std::int64_t> step;
  std::string source, reference;  ///< empty where there is none
  std::string text;
};

/// Lines of samples.jsonl that are kept, the last ones.
inline constexpr std::size_t most_samples = 24;

/// What a run folder tells of a run, under way or over, without its checkpoints.
struct RunRecord {
  std::string folder;

  /// Of each training step: its number and the seconds of training up to its end. Restarts and
  /// evaluations take no time here.
  std::vector<double> steps, seconds;
  /// Other numbers of those lines by name, one for each step: NaN where a line has none, or null.
  std::map<std::string, std::vector<double>> columns;
  /// load_largest_over_mean and load_entropy: [MoE layer][step].
  std::map<std::string, std::vector<std::vector<float>>> layers;
  std::int64_t skipped = 0;  ///< updates left out
  std::vector<EvaluationRecord> evaluations;

  std::optional<std::string> deck_text;                   ///< effective.toml
  std::vector<std::pair<std::string, std::string>> deck;  ///< its keys and values, "section/key"

  /// machine.json, nested names joined by "/"; empty without one.
  std::vector<std::pair<std::string, std::string>> machine;

  std::vector<SampleRecord> samples;
  std::size_t samples_in_file = 0;

  std::vector<std::string> notes;  ///< what is missing or was left out, for the reader

  /// No line of metrics.jsonl yet.
  bool empty() const { return steps.empty() && evaluations.empty(); }
  /// A column, or null.
  const std::vector<double>* column(const std::string& name) const;
  /// A value of the deck, or "".
  std::string setting(const std::string& key) const;
};

/// Reads a run folder: metrics.jsonl, and effective.toml, machine.json, samples.jsonl where they
/// are. The last line of a file that grows may be half written: it is left out with a note. A run
/// that has just begun may have no lines: another note.
/// InputError:
/// "<folder>: ..." where there is no run or no metrics, "<file>:<line>: error: ..." for a line that
/// is wrong.
RunRecord read_run(const std::string& folder);

}  // namespace kokomoe
