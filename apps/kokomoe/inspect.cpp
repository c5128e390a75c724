// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "command.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/moe/router_registry.hpp"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>

namespace kokomoe::app {

namespace {

struct InspectOptions {
  std::string first, second, json, tensor, output;
};

std::string shape_text(const std::vector<std::size_t>& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i)
    text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

int list(const InspectOptions& options) {
  const std::string folder = resolve_checkpoint(options.first);
  const CheckpointMeta meta = read_manifest(folder);
  const auto tensors = inspect_checkpoint(folder);
  nlohmann::json rows = nlohmann::json::array();
  if (options.json != "-")
    std::printf("%s: step %lld, %zu tensors, all digests verified\n", folder.c_str(),
                static_cast<long long>(meta.step), tensors.size());
  for (const TensorInfo& tensor : tensors) {
    if (options.json != "-")
      std::printf("  %-52s %-18s %-8s %s  rms %.3e\n", tensor.name.c_str(),
                  shape_text(tensor.shape).c_str(), tensor.dtype.c_str(), tensor.digest.c_str(),
                  tensor.rms);
    rows.push_back({{"name", tensor.name},
                    {"shape", tensor.shape},
                    {"dtype", tensor.dtype},
                    {"digest", tensor.digest},
                    {"rms", tensor.rms}});
  }
  write_json(options.json, {{"step", meta.step}, {"tensors", rows}});
  return done;
}

/// 0 when all tensors are equal, 1 when not, as of programs that compare.
int compare(const InspectOptions& options) {
  const auto differences =
      compare_checkpoints(resolve_checkpoint(options.first), resolve_checkpoint(options.second));
  bool equal = true;
  nlohmann::json rows = nlohmann::json::array();
  for (const TensorDifference& row : differences) {
    equal = equal && row.equal;
    if (options.json != "-" && !row.equal)
      std::printf("  %-52s largest difference %.3e %s\n", row.name.c_str(), row.max_abs_difference,
                  row.note.c_str());
    nlohmann::json entry = {{"name", row.name}, {"equal", row.equal}, {"note", row.note}};
    if (std::isfinite(row.max_abs_difference))
      entry["largest_difference"] = row.max_abs_difference;
    else
      entry["largest_difference"] = nullptr;
    rows.push_back(entry);
  }
  if (options.json != "-")
    std::printf("%zu tensors, %s\n", differences.size(), equal ? "all equal" : "not all equal");
  write_json(options.json, {{"equal", equal}, {"tensors", rows}});
  return equal ? done : failed;
}

/// One tensor as text, to a file or to standard output.
int export_text(const InspectOptions& options) {
  const std::string folder = resolve_checkpoint(options.first);
  if (options.output.empty() || options.output == "-") {
    export_tensor(folder, options.tensor, std::cout);
    std::cout.flush();
    if (!std::cout) throw Error("cannot write to standard output");
    return done;
  }
  std::ofstream file(options.output, std::ios::trunc);
  if (!file)
    throw InputError(options.output + ": error: cannot be written: " + std::strerror(errno));
  export_tensor(folder, options.tensor, file);
  file.close();
  if (!file) throw Error(options.output + ": cannot be written: " + std::strerror(errno));
  return done;
}

nlohmann::json option_json(const RouterOption& option) {
  nlohmann::json value;
  std::visit([&](const auto& v) { value = v; }, option.default_value);
  return {
      {"name", option.name}, {"default", value}, {"doc", option.doc}, {"choices", option.choices}};
}

}  // namespace

void add_inspect(CLI::App& program, Action& action) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command = program.add_subcommand(
      "inspect",
      "list and verify a checkpoint, compare two (exit 1 when they differ), or export a tensor");
  command->add_option("step", options->first, "run folder (its latest) or step folder")->required();
  CLI::Option* const other = command->add_option("other", options->second, "to compare with");
  CLI::Option* const json =
      command->add_option("--json", options->json, "write to a file, or - for standard output");
  CLI::Option* const tensor = command->add_option(
      "--export", options->tensor, "write this tensor as text, with all digits, a row a line");
  tensor->excludes(other)->excludes(json);
  command->add_option("--output", options->output, "where --export writes; else standard output")
      ->needs(tensor);
  command->callback([options, &action] {
    action = [options](const Communicator& communicator) -> int {
      if (!communicator.is_root()) return done;
      if (!options->tensor.empty()) return export_text(*options);
      return options->second.empty() ? list(*options) : compare(*options);
    };
  });
}

void add_routers(CLI::App& program, Action& action) {
  auto json = std::make_shared<std::string>();
  CLI::App* command = program.add_subcommand("routers", "list the routers and their options");
  command->add_option("--json", *json, "write to a file, or - for standard output");
  command->callback([json, &action] {
    action = [json](const Communicator& communicator) -> int {
      if (!communicator.is_root()) return done;
      nlohmann::json rows = nlohmann::json::array();
      for (const RouterInfo& router : router_registry()) {
        nlohmann::json options = nlohmann::json::array();
        if (*json != "-")
          std::printf("%-16s %s\n%-16s [%s]\n", router.name.c_str(), router.summary.c_str(), "",
                      router.paper.c_str());
        for (const RouterOption& option : router.options) {
          options.push_back(option_json(option));
          if (*json != "-")
            std::printf("  moe/%-20s default %s: %s\n", option.name.c_str(),
                        options.back()["default"].dump().c_str(), option.doc.c_str());
        }
        rows.push_back({{"name", router.name},
                        {"summary", router.summary},
                        {"paper", router.paper},
                        {"options", options}});
      }
      write_json(*json, rows);
      return done;
    };
  });
}

}  // namespace kokomoe::app
