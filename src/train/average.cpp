// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/average.hpp"

#include "io/checkpoint_folders.hpp"
#include "io/disk.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/train/run_folder.hpp"
#include "kokomoe/train/training_run.hpp"
#include "train/checkpoint_deck.hpp"

#include <algorithm>
#include <filesystem>

namespace kokomoe {

namespace {

namespace fs = std::filesystem;

/// The step folders that are meant, the newest last.
std::vector<std::string> find_steps(const AverageOptions& options) {
  std::vector<std::string> steps;
  if (options.last > 0) {
    if (options.checkpoints.size() != 1)
      throw InputError("the last steps of how many runs? --last wants one run folder");
    const std::string& run = options.checkpoints.front();
    for (const detail::StepFolder& step : detail::steps_to_read(run + "/checkpoints")) {
      if (step.replaced || static_cast<int>(steps.size()) == options.last) continue;
      steps.insert(steps.begin(), step.path);
    }
    if (static_cast<int>(steps.size()) < options.last)
      throw InputError("run folder \"" + run + "\" has " + std::to_string(steps.size()) +
                       " checkpoint(s), not " + std::to_string(options.last) +
                       ": train with a higher checkpoint/keep");
  } else {
    for (const std::string& name : options.checkpoints) steps.push_back(resolve_checkpoint(name));
    const auto step_of = [](const std::string& folder) { return read_manifest(folder).step; };
    std::stable_sort(steps.begin(), steps.end(),
                     [&](const auto& a, const auto& b) { return step_of(a) < step_of(b); });
  }
  for (std::size_t i = 0; i < steps.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      if (fs::equivalent(steps[i], steps[j]))
        throw InputError(steps[i] + " goes into the mean twice" +
                         (steps[i] == steps[j] ? "" : ", also as " + steps[j]));
  if (steps.size() < 2)
    throw InputError("a mean wants two checkpoints at least, not " + std::to_string(steps.size()));
  return steps;
}

/// Trained values of a store, one after the other, on the host.
template <class T, class Work>
void for_each_trained(const ParameterStore<T>& store, const Work& work) {
  for (std::size_t i = 0; i < store.entries().size(); ++i)
    if (!store.entries()[i].spec.state && store.entries()[i].size > 0)
      work(store.value_vector(ParameterHandle{static_cast<int>(i)}));
}

template <class T>
void average(const std::vector<std::string>& steps, const std::string& run_folder,
             const Communicator& communicator) {
  Loaded<Trainer<T>> loaded = load_trainer<T>(steps.front(), {}, communicator, DataUse::none);
  ParameterStore<T>& store = loaded.model->store();
  std::vector<double> sums;
  CheckpointMeta meta;
  for (const std::string& step : steps) {
    const detail::SavedRun saved = detail::read_saved_run(step, communicator);
    detail::refuse_other_model(
        detail::deck_of(detail::read_saved_run(steps.front(), communicator), {}), saved);
    meta = load_checkpoint<T>(step, store, communicator);
    std::size_t at = 0;
    for_each_trained<T>(store, [&](const Vector<T>& values) {
      const auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), values);
      if (sums.size() < at + host.extent(0)) sums.resize(at + host.extent(0), 0);
      for (std::size_t i = 0; i < host.extent(0); ++i) sums[at + i] += static_cast<double>(host(i));
      at += host.extent(0);
    });
  }
  std::size_t at = 0;
  for_each_trained<T>(store, [&](const Vector<T>& values) {
    const auto host = Kokkos::create_mirror(values);
    for (std::size_t i = 0; i < host.extent(0); ++i)
      host(i) = static_cast<T>(sums[at + i] / static_cast<double>(steps.size()));
    at += host.extent(0);
    Kokkos::deep_copy(values, host);
  });
  store.round_values(ExecutionSpace());
  // Of the newest one's life, not of what this is.
  meta.counters.erase("best_step");
  meta.numbers.erase("best_loss");
  std::error_code code;
  fs::create_directories(run_folder + "/checkpoints", code);
  if (code) fail(run_folder + "/checkpoints", "cannot be made: " + code.message());
  detail::replace_file(run_folder + "/effective.toml", meta.deck);
  save_checkpoint<T>(run_folder + "/checkpoints", store, meta, communicator, false, 2);
}

}  // namespace

std::vector<std::string> average_checkpoints(const AverageOptions& options,
                                             const Communicator& communicator) {
  if (communicator.size() > 1)
    throw InputError("average runs on one rank, not " + std::to_string(communicator.size()));
  const std::vector<std::string> steps = find_steps(options);
  RunLock lock;
  lock.take(options.run_folder);
  // Without a checkpoint it is what an earlier mean left when it was interrupted.
  std::error_code ignored;
  if (has_checkpoint(options.run_folder) ||
      fs::exists(options.run_folder + "/metrics.jsonl", ignored))
    throw InputError("run folder \"" + options.run_folder + "\" holds a run already");
  const Deck deck = deck_of_checkpoint(steps.front(), {}, communicator);
  if (deck.text("run/precision") == "double")
    average<double>(steps, options.run_folder, communicator);
  else
    average<float>(steps, options.run_folder, communicator);
  return steps;
}

}  // namespace kokomoe
