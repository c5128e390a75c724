// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/study/run_study.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/parallel/agree.hpp"
#include "kokomoe/study/study_report.hpp"
#include "kokomoe/train/data_files.hpp"
#include "kokomoe/train/progress.hpp"
#include "kokomoe/train/run_control.hpp"
#include "kokomoe/train/training_run.hpp"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

namespace kokomoe {

namespace {

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw InputError(path + ": cannot be opened");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

/// Refuses a run folder that another deck was trained in.
void require_same_deck(const std::string& folder, const Deck& deck) {
  const std::string path = folder + "/effective.toml";
  const Deck before = parse_deck(text_of(path), path);
  const Schema schema = task_of(deck).schema("");
  for (const KeySpec& key : schema.keys())
    if (!before.known(key.name) || before.toml(key.name) != deck.toml(key.name))
      throw InputError(folder + " was trained with " + key.name + " = " +
                       (before.known(key.name) ? before.toml(key.name) : "nothing") + ", not " +
                       deck.toml(key.name) + ": give this study a folder of its own");
}

enum class State { to_do, done, failed };

/// On the root.
State state_of(const std::string& folder, const Deck& deck) {
  if (!std::filesystem::exists(folder + "/effective.toml")) return State::to_do;
  require_same_deck(folder, deck);
  if (std::filesystem::exists(failure_file(folder))) return State::failed;
  if (!has_checkpoint(folder)) return State::to_do;
  const bool done = read_manifest(resolve_checkpoint(folder)).step == deck.integer("train/steps");
  return done ? State::done : State::to_do;
}

State agreed_state(const std::string& folder, const Deck& deck, const Communicator& communicator) {
  State state = State::to_do;
  run_on_root(communicator, [&] { state = state_of(folder, deck); });
  communicator.broadcast(&state, sizeof state);
  return state;
}

/// What `train` would refuse hours later is refused now.
void rehearse(const std::vector<StudyTraining>& runs, const std::string& study,
              const Communicator& communicator) {
  for (const StudyTraining& run : runs) {
    if (agreed_state(run.folder(study), run.deck, communicator) != State::to_do) continue;
    std::vector<std::string> ignored;
    try {
      require_data_files(run.deck, DataUse::training, false, communicator);
      run_on_root(communicator, [&] {
        task_of(run.deck).read(run.deck, ignored)->rehearse(run.deck, DataUse::training);
      });
    } catch (const InputError& error) {
      throw InputError(run.name() + ": " + error.what());
    }
  }
}

/// A variant's runs compare with each other if they have read the same data.
class SameData {
 public:
  void require(const StudyTraining& run, const std::string& study) {
    const std::string folder = run.folder(study);
    const CheckpointMeta meta = read_manifest(resolve_checkpoint(folder));
    const auto digest = meta.texts.find("data_digest");
    if (digest == meta.texts.end()) return;
    const auto [first, is_new] =
        digests_.try_emplace(run.variant->name, std::pair(digest->second, folder));
    if (!is_new && first->second.first != digest->second)
      throw InputError(folder + " was trained on other data than " + first->second.second +
                       " (digest " + digest->second + ", not " + first->second.first +
                       "): bring the data back, or give this study a folder of its own");
  }

 private:
  std::map<std::string, std::pair<std::string, std::string>> digests_;
};

/// True when it is done, false when something stopped it.
bool train_run(const StudyTraining& run, const StudyConfig& config, const std::string& folder,
               double wall_seconds, const Communicator& communicator) {
  TrainingOptions training;
  training.deck = config.deck;
  training.run_folder = folder;
  training.resume = "last";
  training.overrides = run.overrides;
  training.quiet = true;
  training.wall_seconds = wall_seconds;
  return train(training, communicator);
}

}  // namespace

StudyEnd run_study(const StudyConfig& config, const StudyOptions& options,
                   const Communicator& communicator) {
  const auto begin = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  // One watch over all runs: what arrives while one of them ends stops the study all the same.
  const SignalWatch watch;
  const std::vector<StudyTraining> runs = trainings_of(config);
  rehearse(runs, options.folder, communicator);
  options.say(start_banner(communicator));
  SameData same_data;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const StudyTraining& run = runs[i];
    const std::string folder = run.folder(options.folder);
    const std::string name =
        "[" + std::to_string(i + 1) + "/" + std::to_string(runs.size()) + "] " + run.name();
    const auto stopped = [&] {
      options.say(name + ": stopped; run the study again to go on");
      return StudyEnd::stopped;
    };
    if (communicator.all_reduce_max(watch.seen() ? 1 : 0) != 0) return stopped();
    State state = agreed_state(folder, run.deck, communicator);
    const bool was_there = state == State::done;
    if (state == State::to_do) {
      run_on_root(communicator, [&] {
        std::error_code code;
        std::filesystem::create_directories(folder, code);
        if (code) throw InputError(folder + ": cannot be made: " + code.message());
      });
      const double wall =
          options.wall_seconds > 0 ? std::max(1.0, options.wall_seconds - seconds()) : 0;
      try {
        if (!train_run(run, config, folder, wall, communicator)) return stopped();
        state = State::done;
      } catch (const NotFinite& error) {
        // On every rank alike.
        state = State::failed;
        run_on_root(communicator, [&] {
          std::ofstream file(failure_file(folder));
          file << error.what() << '\n';
          file.flush();
          if (!file) throw Error(failure_file(folder) + ": cannot be written");
        });
      } catch (const InputError& error) {
        throw InputError(run.name() + ": " + error.what());
      } catch (const Error& error) {
        throw Error(run.name() + ": " + error.what());
      }
    }
    run_on_root(communicator, [&] {
      if (state == State::failed) {
        options.say(name + ": FAILED: " + text_of(failure_file(folder)) + "  remove " +
                    failure_file(folder) + " to have it tried again");
        return;
      }
      same_data.require(run, options.folder);
      const StudyRun result = read_study_run(folder, config.figure);
      char line[96];
      std::snprintf(line, sizeof line, ": %s %.4f after %lld steps, %s", config.figure.c_str(),
                    result.curve.back().value, static_cast<long long>(result.curve.back().step),
                    human_time(result.seconds).c_str());
      options.say(name + line + (was_there ? " (was there)" : ""));
    });
  }
  return StudyEnd::whole;
}

}  // namespace kokomoe
