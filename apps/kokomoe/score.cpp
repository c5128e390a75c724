// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "command.hpp"

#include "kokomoe/config.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/data/text_scores.hpp"

#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>

namespace kokomoe::app {

namespace {

struct ScoreOptions {
  std::string reference, hypothesis = "-", tokenizer = "13a", json;
};

std::vector<std::string> lines_of(std::istream& in, const std::string& name) {
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  if (in.bad()) throw InputError("\"" + name + "\" could not be read");
  return lines;
}

std::vector<std::string> lines_of(const std::string& path) {
  if (path == "-") return lines_of(std::cin, "standard input");
  std::ifstream file(path);
  if (!file) throw InputError("\"" + path + "\" cannot be opened");
  return lines_of(file, path);
}

int score(const ScoreOptions& options) {
  require_json(options.json);
  if (options.reference == "-" && options.hypothesis == "-")
    throw InputError("--reference and --hypothesis both read standard input: name a file for one");
  const auto references = lines_of(options.reference), hypotheses = lines_of(options.hypothesis);
  if (references.empty()) throw InputError("\"" + options.reference + "\" has no lines");
  if (references.size() != hypotheses.size())
    throw InputError(
        "\"" + options.reference + "\" has " + std::to_string(references.size()) + " lines, " +
        (options.hypothesis == "-" ? "standard input" : "\"" + options.hypothesis + "\"") +
        " has " + std::to_string(hypotheses.size()));
  BleuOptions how;
  if (options.tokenizer == "none") how = {BleuTokenizer::none, BleuSmoothing::none};
  const BleuScore words = bleu(hypotheses, references, how);
  const double characters = chrf(hypotheses, references);
  const std::string version = "|program:kokomoe|version:" KOKOMOE_VERSION;
  const std::string signature = bleu_signature(how) + version;
  if (options.json != "-")
    std::printf(
        "BLEU %.2f  %.1f/%.1f/%.1f/%.1f (brevity penalty %.3f, %lld words for %lld)  %s\n"
        "chrF2 %.2f  %s\n",
        words.score, words.precision[0], words.precision[1], words.precision[2], words.precision[3],
        words.brevity_penalty, static_cast<long long>(words.hypothesis_words),
        static_cast<long long>(words.reference_words), signature.c_str(), characters,
        (chrf_signature() + version).c_str());
  write_json(options.json, {{"bleu", words.score},
                            {"chrf", characters},
                            {"signature", signature},
                            {"chrf_signature", chrf_signature() + version},
                            {"precisions", words.precision},
                            {"brevity_penalty", words.brevity_penalty},
                            {"hypothesis_words", words.hypothesis_words},
                            {"reference_words", words.reference_words},
                            {"lines", references.size()}});
  return done;
}

}  // namespace

void add_score(CLI::App& program, Action& action) {
  auto options = std::make_shared<ScoreOptions>();
  CLI::App* command = program.add_subcommand(
      "score", "BLEU and chrF of translations, a line each, as sacrebleu computes them");
  command
      ->add_option("--reference", options->reference,
                   "what they should be, UTF-8 (a byte that is not counts as a character)")
      ->required();
  command->add_option("--hypothesis", options->hypothesis,
                      "translations, or - for standard input (the default)");
  command
      ->add_option("--tokenize", options->tokenizer,
                   "13a: BLEU cuts words itself; none: both files are tokenised, without smoothing")
      ->check(CLI::IsMember({"13a", "none"}));
  command->add_option("--json", options->json, "write to a file, or - for standard output");
  command->callback([options, &action] {
    action = [options](const Communicator& communicator) -> int {
      return communicator.is_root() ? score(*options) : done;
    };
  });
}

}  // namespace kokomoe::app
