// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/communicator.hpp"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <functional>
#include <limits>
#include <string>

namespace kokomoe::app {

/// Exit codes that batch scripts rely on.
enum ExitCode : int { done = 0, failed = 1, bad_input = 2, stopped_early = 75 };

/// What a subcommand does once its options are read. Returns the exit code.
using Action = std::function<int(const Communicator&)>;

/// Each adds its subcommand to the program; `action` is set when the user chose it.
void add_train(CLI::App& program, Action& action);
void add_average(CLI::App& program, Action& action);
void add_eval(CLI::App& program, Action& action);
void add_generate(CLI::App& program, Action& action);
void add_inspect(CLI::App& program, Action& action);
void add_score(CLI::App& program, Action& action);
void add_study(CLI::App& program, Action& action);
void add_predict(CLI::App& program, Action& action);
void add_translate(CLI::App& program, Action& action);
void add_validate(CLI::App& program, Action& action);
void add_plan(CLI::App& program, Action& action);
void add_routers(CLI::App& program, Action& action);
void add_fidelity(CLI::App& program, Action& action);
void add_bench(CLI::App& program, Action& action);
void add_report(CLI::App& program, Action& action);
/// Below the command `bench`.
void add_bench_gemm(CLI::App& bench, Action& action);
void add_bench_layer(CLI::App& bench, Action& action);
void add_bench_step(CLI::App& bench, Action& action);
void add_bench_exchange(CLI::App& bench, Action& action);

/// Takes what is above zero and finite.
inline CLI::Validator positive_number() {
  return CLI::Validator(
      [](std::string& text) -> std::string {
        double number = 0;
        const bool is_number = CLI::detail::lexical_cast(text, number);
        if (is_number && number > 0 && number <= std::numeric_limits<double>::max()) return {};
        return "must be a positive number, not " + text;
      },
      "POSITIVE");
}

/// Throws InputError when write_json could not write there: asked before the work is done.
void require_json(const std::string& path);

/// Writes to a file, or to standard output for "-"; nothing for "". Throws InputError.
void write_json(const std::string& path, const nlohmann::json& value);

}  // namespace kokomoe::app
