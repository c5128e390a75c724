// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "command.hpp"
#include "trained_model.hpp"

#include "kokomoe/core/error.hpp"

#include <iostream>
#include <memory>

namespace kokomoe::app {

namespace {

struct PredictOptions {
  std::string from;
  std::vector<std::string> input, overrides;
};

template <class T>
int predict(Loaded<SentenceTrainer<T>>& loaded, const PredictOptions& options,
            const Communicator& communicator) {
  const SentenceFormat format = without_labels(loaded.model->config().format);
  const SentenceCorpus rows =
      SentenceCorpus::open(options.input, format, *loaded.tokenizer, communicator);
  const std::vector<std::string> told = loaded.model->predicted_labels(rows);
  if (!communicator.is_root()) return done;
  std::cout << "index\tprediction\n";
  for (std::size_t i = 0; i < told.size(); ++i) std::cout << i << '\t' << told[i] << '\n';
  std::cout.flush();
  if (!std::cout) throw Error("standard output cannot be written");
  return done;
}

}  // namespace

void add_predict(CLI::App& program, Action& action) {
  auto options = std::make_shared<PredictOptions>();
  CLI::App* command = program.add_subcommand(
      "predict", "label the rows of a table, in the form that GLUE takes: index, prediction");
  command
      ->add_option("-r,--resume", options->from,
                   "run folder (its latest), its checkpoints/best, or step folder")
      ->required();
  command
      ->add_option("--input", options->input,
                   "table in the form of data/format, without labels: GLUE's test.tsv")
      ->required()
      ->expected(1)
      ->allow_extra_args(false);
  command->add_option("overrides", options->overrides, "section/key=value ...");
  command->footer("Example: kokomoe predict -r runs/rte --input GLUE/RTE/test.tsv > RTE.tsv");
  command->callback([options, &action] {
    action = [options](const Communicator& communicator) -> int {
      return with_model(
          options->from, options->overrides, communicator,
          [&](const std::string& step, auto zero) {
            return load_sentences<decltype(zero)>(step, options->overrides, communicator);
          },
          [&](auto& loaded) { return predict(loaded, *options, communicator); });
    };
  });
}

}  // namespace kokomoe::app
