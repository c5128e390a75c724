// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "command.hpp"
#include "trained_model.hpp"

#include "kokomoe/core/error.hpp"

#include <unistd.h>
#include <fstream>
#include <iostream>
#include <memory>

namespace kokomoe::app {

namespace {

struct TranslateOptions {
  std::string from, input = "-";
  std::vector<std::string> overrides;
};

/// Up to `count` lines.
std::vector<std::string> read_lines(std::istream& in, const std::string& name, std::size_t count) {
  std::vector<std::string> lines;
  for (std::string line; lines.size() < count && std::getline(in, line);) {
    if (line.ends_with('\r')) line.pop_back();
    lines.push_back(line);
  }
  if (in.bad()) throw InputError("\"" + name + "\" could not be read");
  return lines;
}

template <class T>
int translate(Loaded<Translation<T>>& loaded, const TranslateOptions& options) {
  const bool console = options.input == "-";
  std::ifstream file;
  if (!console) {
    file.open(options.input);
    if (!file) throw InputError("\"" + options.input + "\" cannot be opened");
  }
  std::istream& in = console ? std::cin : file;
  const std::string name = console ? "standard input" : options.input;
  const auto most = static_cast<std::size_t>(loaded.model->max_source());
  // Enough at once for batches of like lengths; a person at a terminal waits for each line.
  const std::size_t at_once = console && isatty(STDIN_FILENO) != 0 ? 1 : 4096;
  std::size_t number = 0;
  while (true) {
    std::vector<std::string> lines = read_lines(in, name, at_once);
    if (lines.empty()) return done;
    std::vector<std::vector<int>> sources;
    // As what the model was trained on, without a byte order mark.
    if (number == 0 && lines.front().starts_with("\xef\xbb\xbf")) lines.front().erase(0, 3);
    for (const std::string& line : lines) {
      ++number;
      sources.push_back(loaded.tokenizer->encode(line));
      if (sources.back().size() <= most) continue;
      std::cerr << "note: line " << number << " of " << name << " has " << sources.back().size()
                << " tokens: the model takes " << most << ", and the rest is not translated"
                << std::endl;
      sources.back().resize(most);
    }
    for (const Hypothesis& best : loaded.model->translate(sources))
      std::cout << escaped(loaded.tokenizer->decode(best.tokens)) << '\n';
    std::cout.flush();
    if (!std::cout) throw Error("standard output cannot be written");
  }
}

}  // namespace

void add_translate(CLI::App& program, Action& action) {
  auto options = std::make_shared<TranslateOptions>();
  CLI::App* command = program.add_subcommand(
      "translate", "translate sentences, a line each, by beam search as search/* of the deck says");
  command
      ->add_option("-r,--resume", options->from,
                   "run folder (its latest), its checkpoints/best, or step folder")
      ->required();
  command->add_option("--input", options->input,
                      "text file, or - for standard input (the default)");
  command->add_option("overrides", options->overrides, "section/key=value ...");
  command->footer(
      "Example: kokomoe translate -r runs/en_de --input news.en search/beam=8 > news.de");
  command->callback([options, &action] {
    action = [options](const Communicator& communicator) -> int {
      if (communicator.size() > 1)
        throw InputError("translate runs on one rank, not " + std::to_string(communicator.size()));
      return with_model(
          options->from, options->overrides, communicator,
          [&](const std::string& step, auto zero) {
            return load_translation<decltype(zero)>(step, options->overrides, communicator);
          },
          [&](auto& loaded) { return translate(loaded, *options); });
    };
  });
}

}  // namespace kokomoe::app
