// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/files.hpp"
#include "io/toml_reader.hpp"
#include "kokomoe/core/error.hpp"
#include "train/run_lines.hpp"

#include <charconv>
#include <filesystem>
#include <utility>

namespace kokomoe::detail {

namespace {

using Json = nlohmann::json;

std::string shortest(double value) {
  char text[40];
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

std::string value_text(const TomlItem& item) {
  using Kind = TomlItem::Kind;
  switch (item.kind) {
    case Kind::integer:
      return std::to_string(item.integer);
    case Kind::real:
      return shortest(item.real);
    case Kind::boolean:
      return item.boolean ? "true" : "false";
    case Kind::text:
      return "\"" + item.text + "\"";
    case Kind::list: {
      std::string text = "[";
      for (const std::string& part : item.list)
        text += (text.size() > 1 ? ", \"" : "\"") + part + "\"";
      return text + "]";
    }
    case Kind::numbers: {
      std::string text = "[";
      for (const double part : item.numbers) text += (text.size() > 1 ? ", " : "") + shortest(part);
      return text + "]";
    }
    default:
      return item.found;
  }
}

void read_deck(const std::string& path, RunRecord& run) {
  run.deck_text = read_input_file(path, "deck", std::size_t(1) << 20);
  try {
    for (const TomlItem& item : read_toml(*run.deck_text, path))
      if (item.kind != TomlItem::Kind::table) run.deck.emplace_back(item.path, value_text(item));
  } catch (const TomlSyntaxError& error) {
    throw InputError(path + ":" + std::to_string(error.where.line) + ": error: " + error.message);
  }
}

void flatten(const Json& value, const std::string& name, RunRecord& run) {
  if (value.is_object()) {
    for (const auto& [key, child] : value.items())
      flatten(child, name.empty() ? key : name + "/" + key, run);
  } else if (value.is_string()) {
    run.machine.emplace_back(name, value.get<std::string>());
  } else if (!value.is_null()) {
    run.machine.emplace_back(name, value.dump());
  }
}

void read_machine(const std::string& path, RunRecord& run) {
  const std::string text = read_input_file(path, "description", std::size_t(1) << 20);
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) throw InputError(path + ": error: this is no JSON object");
  flatten(json, "", run);
}

std::string text_of(const Json& line, const char* key) {
  const auto found = line.find(key);
  if (found == line.end() || found->is_null()) return "";
  if (!found->is_string()) throw InputError(std::string("\"") + key + "\" is no text");
  return found->get<std::string>();
}

void read_samples(const std::string& path, RunRecord& run) {
  for_each_json_line(path, run.notes, [&](const Json& line) {
    if (!line.contains("text") || line["text"].is_null()) throw InputError("no \"text\"");
    SampleRecord sample;
    if (const auto step = line.find("step"); step != line.end() && !step->is_null()) {
      if (!step->is_number_integer()) throw InputError("\"step\" is no count of steps");
      sample.step = step->get<std::int64_t>();
    }
    sample.text = text_of(line, "text");
    sample.source = text_of(line, "source");
    sample.reference = text_of(line, "reference");
    ++run.samples_in_file;
    if (run.samples.size() == most_samples) run.samples.erase(run.samples.begin());
    run.samples.push_back(std::move(sample));
  });
}

}  // namespace

void read_run_files(const std::string& folder, RunRecord& run) {
  namespace fs = std::filesystem;
  const auto there = [&](const char* name, auto read) {
    const std::string path = (fs::path(folder) / name).string();
    std::error_code ignored;
    if (!fs::exists(path, ignored)) return false;
    read(path, run);
    return true;
  };
  if (!there("effective.toml", read_deck))
    run.notes.push_back("no effective.toml: its deck is not known");
  if (!there("machine.json", read_machine))
    run.notes.push_back("no machine.json: it is not known what it ran on");
  there("samples.jsonl", read_samples);
}

}  // namespace kokomoe::detail
