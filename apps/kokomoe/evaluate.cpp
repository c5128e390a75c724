// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "command.hpp"
#include "trained_model.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/train/data_files.hpp"
#include "kokomoe/train/rehearsal.hpp"
#include "kokomoe/train/training_run.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>

namespace kokomoe::app {

namespace {

struct EvalOptions {
  std::string from, json;
  std::vector<std::string> overrides;
};

template <class T>
int evaluate(Loaded<Trainer<T>>& loaded, const EvalOptions& options,
             const Communicator& communicator) {
  if (loaded.model->heldout_tokens() == 0)
    loaded.deck.refuse(task_of(loaded.deck).heldout_keys.front(), "names no file to evaluate on");
  const Evaluation report = loaded.model->evaluate_heldout(true);
  if (!communicator.is_root()) return done;
  nlohmann::json figures = {{"step", loaded.step}, {"loss", report.loss}};
  std::string line = "step " + std::to_string(loaded.step);
  char text[64];
  std::snprintf(text, sizeof text, ": loss %.4f nats", report.loss);
  line += text;
  for (const auto& [name, value] : report.figures) {
    figures[name] = value;
    std::string words = name;
    std::replace(words.begin(), words.end(), '_', ' ');
    std::snprintf(text, sizeof text, ", %.4f ", value);
    line += text + words;
  }
  if (!task_of(loaded.deck).sees_both_sides) figures["causal"] = !loaded.looks_ahead;
  figures[report.unit] = report.scored;
  if (report.bytes > 0) figures["bytes"] = report.bytes;
  line += " on " + std::to_string(report.scored) + " " + report.unit;
  if (options.json != "-") std::printf("%s\n", line.c_str());
  write_json(options.json, figures);
  return done;
}

struct GenerateOptions {
  std::string from;
  std::vector<std::string> prompts, overrides;
  int tokens = 300;
  double temperature = 0.8;
  int top = 0;
  std::int64_t seed = 1;
};

template <class T>
int generate(LoadedModel<T>& loaded, const GenerateOptions& options) {
  std::int64_t index = 0;
  const auto answer = [&](const std::string& prompt) {
    std::vector<int> ids = {loaded.tokenizer->beginning_of_text()};
    const std::vector<int> encoded = loaded.tokenizer->encode(prompt);
    ids.insert(ids.end(), encoded.begin(), encoded.end());
    const std::vector<int> more =
        loaded.model->generate(ids, options.tokens, options.temperature, options.top,
                               static_cast<std::uint64_t>(options.seed + index++));
    std::vector<int> all = encoded;
    all.insert(all.end(), more.begin(), more.end());
    std::cout << escaped(loaded.tokenizer->decode(all)) << std::endl;
  };
  for (const std::string& prompt : options.prompts) answer(prompt);
  if (options.prompts.empty())
    for (std::string line; std::getline(std::cin, line);) answer(line);
  return done;
}

}  // namespace

void add_eval(CLI::App& program, Action& action) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App* command = program.add_subcommand("eval", "evaluate a checkpoint on held-out text");
  command
      ->add_option("-r,--resume", options->from,
                   "run folder (its latest), its checkpoints/best, or step folder")
      ->required();
  command->add_option("--json", options->json, "write figures to a file, or - for standard output");
  command->add_option("overrides", options->overrides, "section/key=value ...");
  command->footer("Example: kokomoe eval -r runs/first --json - data/heldout=other.txt");
  command->callback([options, &action] {
    action = [options](const Communicator& communicator) {
      if (communicator.is_root()) require_json(options->json);
      return with_model(
          options->from, options->overrides, communicator,
          [&](const std::string& step, auto zero) {
            require_data_files(deck_of_checkpoint(step, options->overrides, communicator),
                               DataUse::evaluation, true, communicator);
            return load_trainer<decltype(zero)>(step, options->overrides, communicator,
                                                DataUse::evaluation);
          },
          [&](auto& loaded) { return evaluate(loaded, *options, communicator); });
    };
  });
}

void add_generate(CLI::App& program, Action& action) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = program.add_subcommand(
      "generate", "continue prompts; one line each, from --prompt or standard input");
  command
      ->add_option("-r,--resume", options->from,
                   "run folder (its latest), its checkpoints/best, or step folder")
      ->required();
  command->add_option("--prompt", options->prompts, "text to continue; may be repeated")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false);
  command->add_option("--tokens", options->tokens, "how many to add")
      ->check(CLI::Range(0, 1 << 22));
  command->add_option("--temperature", options->temperature, "0 = always the most probable")
      ->check(CLI::Range(0.0, 100.0));
  command->add_option("--top", options->top, "draw from the so many most probable; 0 = all")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--seed", options->seed, "of the draws")->check(CLI::NonNegativeNumber);
  command->add_option("overrides", options->overrides, "section/key=value ...");
  command->footer("Example: echo 'In the beginning' | kokomoe generate -r runs/first");
  command->callback([options, &action] {
    action = [options](const Communicator& communicator) -> int {
      if (!std::isfinite(options->temperature)) throw InputError("--temperature is not a number");
      if (communicator.size() > 1)
        throw InputError("generate runs on one rank, not " + std::to_string(communicator.size()));
      return with_model(
          options->from, options->overrides, communicator,
          [&](const std::string& step, auto zero) {
            return load_language_model<decltype(zero)>(step, options->overrides, communicator);
          },
          [&](auto& loaded) { return generate(loaded, *options); });
    };
  });
}

}  // namespace kokomoe::app
