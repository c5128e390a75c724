// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/run_record.hpp"

#include "kokomoe/core/error.hpp"
#include "train/run_lines.hpp"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

namespace kokomoe {

namespace {

using Json = nlohmann::json;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
/// Far more than the loads of any model take.
constexpr std::size_t longest_line = std::size_t(64) << 20;

[[noreturn]] void wrong(const std::string& key, const std::string& what) {
  throw InputError("\"" + key + "\" " + what);
}

std::int64_t step_of(const Json& line) {
  const auto found = line.find("step");
  if (found == line.end()) throw InputError("no \"step\"");
  if (!found->is_number_integer() || found->get<double>() < 0 || found->get<double>() > 9e15)
    wrong("step", "is " + found->dump() + ", not a count of steps");
  return found->get<std::int64_t>();
}

bool is_number(const Json& value) {
  return value.is_number() || value.is_null();
}

double number_of(const Json& value) {
  return value.is_null() ? nan : value.get<double>();
}

class MetricsReader {
 public:
  explicit MetricsReader(RunRecord& run) : run_(run) {}

  void take(const Json& line) {
    const std::int64_t step = step_of(line);
    const bool trains = line.contains("loss");
    if (step < last_step_ || (trains && step == last_training_))
      throw InputError("step " + std::to_string(step) + " comes after step " +
                       std::to_string(last_step_));
    last_step_ = step;
    if (trains)
      training(step, line);
    else
      evaluation(step, line);
  }

  void finish() {
    for (auto& [name, column] : run_.columns) column.resize(run_.steps.size(), nan);
    for (auto& [name, layers] : run_.layers)
      for (auto& column : layers) column.resize(run_.steps.size(), static_cast<float>(nan));
    if (without_time_ > 0)
      run_.notes.push_back(std::to_string(without_time_) +
                           " steps do not say how long they took: they take no time here");
  }

 private:
  void training(std::int64_t step, const Json& line) {
    last_training_ = step;
    const std::size_t row = run_.steps.size();
    run_.steps.push_back(static_cast<double>(step));
    double seconds = nan;
    for (const auto& [key, value] : line.items()) {
      if (key == "step") continue;
      if (key == "skipped") {
        if (!value.is_boolean()) wrong(key, "is neither true nor false");
        run_.skipped += value.get<bool>() ? 1 : 0;
      } else if (is_number(value)) {
        std::vector<double>& column = run_.columns[key];
        column.resize(row, nan);
        column.push_back(number_of(value));
        if (key == "seconds") seconds = column.back();
      } else if (key == "load_largest_over_mean" || key == "load_entropy") {
        layers(key, value, row);
      } else if (key == "loss") {
        wrong(key, "is no number");
      }
    }
    if (std::isfinite(seconds) && seconds >= 0)
      time_ += seconds;
    else
      ++without_time_;
    run_.seconds.push_back(time_);
  }

  void layers(const std::string& key, const Json& value, std::size_t row) {
    if (!value.is_array()) wrong(key, "is no list");
    auto& columns = run_.layers[key];
    if (columns.empty()) columns.resize(value.size());
    if (columns.size() != value.size())
      wrong(key, "has " + std::to_string(value.size()) + " entries, " +
                     std::to_string(columns.size()) + " before");
    for (std::size_t layer = 0; layer < value.size(); ++layer) {
      if (!is_number(value[layer])) wrong(key, "holds more than numbers");
      columns[layer].resize(row, static_cast<float>(nan));
      columns[layer].push_back(static_cast<float>(number_of(value[layer])));
    }
  }

  void evaluation(std::int64_t step, const Json& line) {
    EvaluationRecord record;
    record.step = step;
    record.seconds = time_;
    for (const auto& [key, value] : line.items()) {
      if (key == "step") continue;
      if (key == "expert_load")
        record.expert_load = loads(value);
      else if (is_number(value))
        record.figures.emplace_back(key, number_of(value));
      else if (key == "eval_loss")
        wrong(key, "is no number");
    }
    run_.evaluations.push_back(std::move(record));
  }

  std::vector<std::vector<double>> loads(const Json& value) {
    std::vector<std::vector<double>> result;
    const char* const shape = "is no list of lists of shares, one list for each MoE layer";
    if (!value.is_array()) wrong("expert_load", shape);
    for (const Json& layer : value) {
      if (!layer.is_array()) wrong("expert_load", shape);
      result.emplace_back();
      for (const Json& share : layer) {
        if (!is_number(share) || number_of(share) < 0) wrong("expert_load", shape);
        result.back().push_back(number_of(share));
      }
    }
    std::vector<std::size_t> experts;
    for (const auto& layer : result) experts.push_back(layer.size());
    if (!experts_.empty() && experts != experts_)
      wrong("expert_load", "has other layers or experts than before");
    experts_ = experts;
    return result;
  }

  RunRecord& run_;
  std::int64_t last_step_ = -1, last_training_ = -1, without_time_ = 0;
  double time_ = 0;
  std::vector<std::size_t> experts_;  ///< of each layer, once known
};

}  // namespace

void detail::for_each_json_line(const std::string& path, std::vector<std::string>& notes,
                                const std::function<void(const Json&)>& take) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw InputError(path + ": error: cannot be read");
  std::string text;
  for (std::size_t number = 1; std::getline(file, text); ++number) {
    const bool torn = file.eof();  // no end of line
    const std::string where = path + ":" + std::to_string(number) + ": error: ";
    if (text.size() > longest_line) throw InputError(where + "a line of that length is no record");
    const Json line = Json::parse(text, nullptr, false);
    if (torn && !line.is_object()) {
      notes.push_back("the last line of " + std::filesystem::path(path).filename().string() +
                      " is not whole yet and left out");
      return;
    }
    if (line.is_discarded()) throw InputError(where + "this is no JSON");
    if (!line.is_object()) throw InputError(where + "this is no JSON object");
    try {
      take(line);
    } catch (const InputError& error) {
      throw InputError(where + error.what());
    }
  }
  if (file.bad()) throw InputError(path + ": error: cannot be read to its end");
}

const std::vector<double>* RunRecord::column(const std::string& name) const {
  const auto found = columns.find(name);
  return found == columns.end() ? nullptr : &found->second;
}

std::string RunRecord::setting(const std::string& key) const {
  for (const auto& [name, value] : deck)
    if (name == key) return value;
  return "";
}

RunRecord read_run(const std::string& folder) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  RunRecord run;
  run.folder = folder;
  if (!fs::exists(folder, ignored)) throw InputError(folder + ": error: run folder not found");
  if (!fs::is_directory(folder, ignored))
    throw InputError(folder + ": error: this is no run folder");
  const std::string metrics = (fs::path(folder) / "metrics.jsonl").string();
  if (!fs::is_regular_file(metrics, ignored))
    throw InputError(folder + ": error: has no metrics.jsonl: no run was trained there");
  MetricsReader reader(run);
  detail::for_each_json_line(metrics, run.notes, [&](const Json& line) { reader.take(line); });
  reader.finish();
  if (run.empty()) run.notes.push_back("its metrics.jsonl has no lines yet");
  detail::read_run_files(folder, run);
  return run;
}

}  // namespace kokomoe
