// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "command.hpp"

#include "kokomoe/train/average.hpp"

#include <cstdio>
#include <memory>

namespace kokomoe::app {

void add_average(CLI::App& program, Action& action) {
  auto options = std::make_shared<AverageOptions>();
  CLI::App* command =
      program.add_subcommand("average", "the mean of checkpoints' parameters, as a run of its own");
  command->add_option("checkpoints", options->checkpoints, "step folders, or runs (their latest)")
      ->required();
  command->add_option("--last", options->last, "the so many newest steps of the one run named")
      ->check(CLI::Range(2, 1 << 20));
  command->add_option("-d,--directory", options->run_folder, "run folder that is made")->required();
  command->footer("Example: kokomoe average runs/first --last 5 -d runs/first_mean");
  command->callback([options, &action] {
    action = [options](const Communicator& communicator) -> int {
      const std::vector<std::string> steps = average_checkpoints(*options, communicator);
      std::printf("mean of %zu checkpoints:\n", steps.size());
      for (const std::string& step : steps) std::printf("  %s\n", step.c_str());
      return done;
    };
  });
}

}  // namespace kokomoe::app
