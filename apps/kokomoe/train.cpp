// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "command.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/parallel/agree.hpp"
#include "kokomoe/study/fidelity.hpp"
#include "kokomoe/study/study_deck.hpp"
#include "kokomoe/train/data_files.hpp"
#include "kokomoe/train/rehearsal.hpp"
#include "kokomoe/train/run_control.hpp"
#include "kokomoe/train/training_run.hpp"

#include <algorithm>
#include <iostream>
#include <memory>

namespace kokomoe::app {

namespace {

/// A deck that `train` takes. Notes come once, however many decks have them.
void validate_training(const Deck& deck, bool data, const Communicator& communicator,
                       std::vector<std::string>& notes) {
  std::vector<std::string> own;
  const std::unique_ptr<Task> task = task_of(deck).read(deck, own);
  note_schedule(task->config(), own);
  note_idle_settings(deck, own);
  try {
    require_data_files(deck, DataUse::training, false, communicator);
  } catch (const InputError& error) {
    if (data) throw;
    own.push_back(std::string(error.what()) + "\ntrain will refuse to begin without it");
  }
  run_on_root(communicator, [&] { task->rehearse(deck, DataUse::training); });
  for (const std::string& note : own)
    if (std::find(notes.begin(), notes.end(), note) == notes.end()) notes.push_back(note);
}

/// Decks that `study` and `fidelity` take; false for those of `train`.
bool validate_other(const std::string& path, const std::vector<std::string>& overrides, bool data,
                    const Communicator& communicator, std::vector<std::string>& notes) {
  if (Deck::file_has(path, "study")) {
    const StudyConfig config = read_study_deck(Deck::load(path, study_schema(), overrides));
    notes.push_back("a deck for kokomoe study: " + std::to_string(config.variants.size()) +
                    " variants, " + std::to_string(config.seeds.size()) + " seeds");
    for (const StudyTraining& run : trainings_of(config)) {
      try {
        validate_training(run.deck, data, communicator, notes);
      } catch (const InputError& error) {
        throw InputError(run.name() + ": " + error.what());
      }
    }
    return true;
  }
  if (Deck::file_has(path, "fidelity") || Deck::file_has(path, "planted")) {
    read_fidelity_deck(Deck::load(path, fidelity_schema(), overrides));
    notes.push_back("a deck for kokomoe fidelity");
    return true;
  }
  return false;
}

}  // namespace

void add_train(CLI::App& program, Action& action) {
  struct Options {
    TrainingOptions training;
    std::string wall, watchdog;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = program.add_subcommand("train", "train the model of a deck");
  command->add_option("-i,--input", options->training.deck,
                      "deck (TOML); not needed with -r, whose own deck is then used");
  command
      ->add_option("-d,--directory", options->training.run_folder,
                   "run folder: effective.toml, metrics.jsonl, checkpoints/")
      ->required();
  command->add_option("-r,--resume", options->training.resume,
                      "go on from a step folder, or from `last` of the run folder");
  command->add_option("-t,--time", options->wall,
                      "wall limit hh:mm:ss: save and leave with code 75 before it is reached");
  command->add_option("-w,--watchdog", options->watchdog,
                      "seconds (or hh:mm:ss) without progress that end the run with code 1, naming "
                      "the ranks that the others wait for; more than the longest step and save");
  command->add_flag("--changed-data", options->training.changed_data,
                    "resume although the training text is not the checkpoint's any more");
  command->add_option("overrides", options->training.overrides, "section/key=value ...");
  command->footer(
      "Example: kokomoe train -i inputs/lm/quickstart.toml -d runs/first train/steps=100\n"
      "SIGTERM, SIGINT, SIGUSR1, SIGHUP or a file RUN/stop save and stop, too; a file\n"
      "RUN/checkpoint_now saves after the step that is under way, and the run goes on.");
  command->callback([options, &action] {
    action = [options](const Communicator& communicator) -> int {
      const auto seconds_of = [](const char* flag, const std::string& text) {
        const double seconds = text.empty() ? 0 : parse_duration(text);
        if (!text.empty() && seconds <= 0)
          throw InputError(std::string(flag) + " " + text + ": no time to run in");
        return seconds;
      };
      options->training.wall_seconds = seconds_of("-t", options->wall);
      options->training.watchdog_seconds = seconds_of("-w", options->watchdog);
      return kokomoe::train(options->training, communicator) ? done : stopped_early;
    };
  });
}

void add_validate(CLI::App& program, Action& action) {
  struct Options {
    std::string deck;
    std::vector<std::string> overrides;
    bool data = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command =
      program.add_subcommand("validate", "check a deck, of a study too: exit 0 or 2");
  command->add_option("-i,--input", options->deck, "deck (TOML)")->required();
  command->add_flag("--data", options->data,
                    "its data files, and the run of model/from, have to be there too; else a note "
                    "says what is not");
  command->add_option("overrides", options->overrides, "section/key=value ...");
  command->callback([options, &action] {
    action = [options](const Communicator& communicator) -> int {
      std::vector<std::string> notes;
      if (!validate_other(options->deck, options->overrides, options->data, communicator, notes))
        validate_training(load_deck(options->deck, options->overrides), options->data, communicator,
                          notes);
      if (communicator.is_root())
        for (const std::string& note : notes) std::cout << "note: " << note << std::endl;
      return done;
    };
  });
}

}  // namespace kokomoe::app
