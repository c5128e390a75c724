// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/training_run.hpp"

#include "kokomoe/config.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/gemm.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/io/json_lines.hpp"
#include "kokomoe/parallel/agree.hpp"
#include "kokomoe/train/data_files.hpp"
#include "kokomoe/train/progress.hpp"
#include "kokomoe/train/run_control.hpp"
#include "kokomoe/train/run_folder.hpp"
#include "train/checkpoint_deck.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

namespace kokomoe {

namespace {

namespace fs = std::filesystem;

class Clock {
 public:
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    const double seconds = std::chrono::duration<double>(now - last_).count();
    last_ = now;
    return seconds;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

void write_text(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.flush();
  if (!file) fail(path, "cannot be written");
}

struct ModelSize {
  std::size_t total = 0, active = 0, frozen = 0;
};

template <class T>
ModelSize model_size(const ParameterStore<T>& store, const MoeConfig& moe) {
  ModelSize size;
  size.total = store.parameters();
  size.active = size.total;
  for (const auto& entry : store.entries()) {
    if (entry.frozen) size.frozen += entry.size;
    // k of E experts see a token; dense_mixture runs all.
    if (entry.group == ParameterStore<T>::Group::expert && moe.router != "dense_mixture")
      size.active -= entry.size / entry.local_shape[0] *
                     (entry.local_shape[0] - static_cast<std::size_t>(moe.k));
  }
  return size;
}

/// Checkpoints carry their tokenizer: neither a cache nor the text it was trained on is needed.
std::shared_ptr<const Tokenizer> tokenizer_of(const CheckpointMeta& meta) {
  return make_tokenizer_from(meta.texts.at("tokenizer_kind"), meta.texts.at("tokenizer"));
}

/// Everything of one run that outlives a step.
template <class T>
class Run {
 public:
  Run(const TrainingOptions& options, const Deck& deck, const LanguageModelConfig& config,
      const Communicator& communicator, const std::string& checkpoint)
      : folder_(options.run_folder),
        deck_(deck),
        communicator_(communicator),
        control_(options.run_folder, options.wall_seconds),
        progress_(communicator.is_root(), config.steps) {
    LanguageModelConfig full = config;
    tokenizer_ = checkpoint.empty() ? make_tokenizer(config.tokenizer, communicator)
                                    : tokenizer_of(read_manifest(checkpoint));
    full.model.vocabulary = tokenizer_->vocabulary();
    const Corpus corpus =
        Corpus::open(config.train_files, *tokenizer_, config.cache_folder, communicator);
    if (!config.heldout_files.empty())
      windows_.emplace(
          Corpus::open(config.heldout_files, *tokenizer_, config.cache_folder, communicator),
          config.sequence_length, config.eval_stride, config.batch_tokens / communicator.size(),
          communicator.size());
    model_ = std::make_unique<LanguageModel<T>>(full, communicator, corpus);
    say_model(corpus);
    if (!checkpoint.empty()) resume(checkpoint);
    run_on_root(communicator, [&] {
      std::error_code code;
      fs::create_directories(folder_ + "/checkpoints", code);
      if (code) fail(folder_ + "/checkpoints", "cannot be made: " + code.message());
      write_text(folder_ + "/effective.toml", deck.effective());
      JsonLines::truncate_after(folder_ + "/metrics.jsonl", step_);
      metrics_ = JsonLines(folder_ + "/metrics.jsonl");
    });
  }

  bool train() {
    const LanguageModelConfig& config = model_->config();
    if (step_ == 0 && config.steps == 0) save(false);
    double average = 0;
    Clock clock;
    while (step_ < config.steps) {
      clock.lap();
      const UpdateReport& report = model_->update(step_);
      const double seconds = clock.lap();
      step_ = report.step;
      tokens_ += report.tokens;
      average = average == 0 ? seconds : 0.9 * average + 0.1 * seconds;
      write_metrics(report, seconds);

      const bool last = step_ == config.steps;
      const bool evaluates =
          windows_ && (last || (config.eval_every > 0 && step_ % config.eval_every == 0));
      const bool improved = evaluates && evaluate();
      // The reserve: one more step, with an evaluation, and a save.
      const StopReason stop =
          control_.check(communicator_, 2 * average + eval_seconds_ + save_seconds_);
      double saved = 0;
      if (improved || last || stop != StopReason::none ||
          (config.checkpoint_every > 0 && step_ % config.checkpoint_every == 0))
        saved = save(improved);
      progress_.step(report, static_cast<double>(report.tokens) / seconds,
                     static_cast<double>(config.steps - step_) * average, saved);
      if (stop != StopReason::none && !last) {
        progress_.say("stopped at step " + std::to_string(step_) + " by " + to_string(stop) +
                      "; go on with -r last");
        return false;
      }
    }
    progress_.finish();
    progress_.say("done: " + std::to_string(step_) + " steps, " +
                  human_count(static_cast<double>(tokens_)) + " tokens, " +
                  human_time(control_.elapsed()) + "; device memory at its peak " +
                  human_bytes(static_cast<double>(model_->peak_bytes())) + " a rank");
    return true;
  }

 private:
  void say_model(const Corpus& corpus) {
    const LanguageModelConfig& config = model_->config();
    const ModelSize size = model_size(model_->store(), config.model.moe);
    std::string line = "model: " + human_count(static_cast<double>(size.total)) +
                       " parameters, " + human_count(static_cast<double>(size.active)) +
                       " active for a token";
    if (size.frozen > 0)
      line += ", " + human_count(static_cast<double>(size.frozen)) + " frozen";
    const int sparse = model_->model().moe_layers();
    line += "; " + std::to_string(config.model.layers) + " layers, " + std::to_string(sparse) +
            " with experts";
    if (sparse > 0)
      line += " (" + config.model.moe.router + ", " + std::to_string(config.model.moe.experts) +
              " experts, k = " + std::to_string(config.model.moe.k) + ")";
    progress_.say(line);
    progress_.say("data: " + human_count(static_cast<double>(corpus.size())) + " tokens, " +
                  human_count(static_cast<double>(config.batch_tokens)) + " an update" +
                  (windows_ ? ", " + human_count(static_cast<double>(windows_->scored())) +
                                  " held out"
                            : ""));
  }

  void resume(const std::string& checkpoint) {
    const CheckpointMeta meta = load_checkpoint<T>(checkpoint, model_->store(), communicator_);
    step_ = meta.step;
    if (const auto found = meta.counters.find("tokens"); found != meta.counters.end())
      tokens_ = found->second;
    if (const auto found = meta.numbers.find("best_loss"); found != meta.numbers.end())
      best_loss_ = found->second;
    progress_.say("resumed from " + checkpoint);
  }

  void write_metrics(const UpdateReport& report, double seconds) {
    if (!communicator_.is_root()) return;
    metrics_.begin()
        .field("step", report.step)
        .field("loss", report.loss)
        .field("task_loss", report.task_loss)
        .field("aux_loss", report.aux_loss)
        .field("tokens", tokens_)
        .field("tokens_per_second", static_cast<double>(report.tokens) / seconds)
        .field("learning_rate", report.learning_rate)
        .field("grad_norm", report.grad_norm)
        .field("seconds", seconds);
    if (!report.load.empty()) {
      column_.clear();
      for (const LoadMetrics& load : report.load) column_.push_back(load.largest_over_mean);
      metrics_.field("load_largest_over_mean", std::span<const double>(column_));
      column_.clear();
      for (const LoadMetrics& load : report.load) column_.push_back(load.entropy);
      metrics_.field("load_entropy", std::span<const double>(column_));
      int dead = 0;
      for (const LoadMetrics& load : report.load) dead += load.dead;
      metrics_.field("dead_experts", dead);
    }
    metrics_.end();
  }

  /// True when this is the best loss so far.
  bool evaluate() {
    Clock clock;
    const EvaluationReport report = model_->evaluate(*windows_);
    if (communicator_.is_root())
      metrics_.begin()
          .field("step", step_)
          .field("eval_loss", report.loss)
          .field("bits_per_byte", report.bits_per_byte)
          .field("perplexity", report.perplexity)
          .field("accuracy", report.accuracy)
          .end();
    const bool improved = report.loss < best_loss_;
    if (improved) best_loss_ = report.loss;
    char line[160];
    std::snprintf(line, sizeof line,
                  "eval at step %lld: loss %.4f, %.4f bits per byte, accuracy %.3f%s",
                  static_cast<long long>(step_), report.loss, report.bits_per_byte,
                  report.accuracy, improved ? " (best)" : "");
    progress_.say(line);
    eval_seconds_ = clock.lap();
    return improved;
  }

  double save(bool best) {
    Clock clock;
    CheckpointMeta meta;
    meta.step = step_;
    meta.deck = deck_.effective();
    meta.counters["tokens"] = tokens_;
    meta.numbers["best_loss"] = best_loss_;
    meta.texts["tokenizer_kind"] = tokenizer_->name();
    meta.texts["tokenizer"] = tokenizer_->serialized();
    save_checkpoint<T>(folder_ + "/checkpoints", model_->store(), meta, communicator_, best,
                       model_->config().checkpoint_keep);
    save_seconds_ = clock.lap();
    return save_seconds_;
  }

  std::string folder_;
  Deck deck_;
  const Communicator& communicator_;
  RunControl control_;
  Progress progress_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::optional<EvalWindows> windows_;
  std::unique_ptr<LanguageModel<T>> model_;
  JsonLines metrics_;
  std::vector<double> column_;
  std::int64_t step_ = 0;
  std::int64_t tokens_ = 0;
  double best_loss_ = std::numeric_limits<double>::infinity();
  double save_seconds_ = 0, eval_seconds_ = 0;
};

bool lies_in(const std::string& checkpoint, const std::string& run_folder) {
  std::error_code ignored;
  const fs::path checkpoints = fs::path(run_folder) / "checkpoints";
  return fs::equivalent(fs::path(checkpoint).parent_path(), checkpoints, ignored);
}

}  // namespace

std::string start_banner(const Communicator& communicator) {
  std::string text = std::string("Kokomoe ") + KOKOMOE_VERSION + " on " + ExecutionSpace::name() +
                     " with " + std::to_string(ExecutionSpace().concurrency()) +
                     " thread(s), " + std::to_string(communicator.size()) + " rank(s)\nGEMM: " +
                     gemm_library();
  return text;
}

bool train_language_model(const TrainingOptions& options, const Communicator& communicator) {
  const std::string& folder = options.run_folder;
  if (folder.empty()) throw InputError("the run folder -d has an empty name");
  // A folder that is there is locked before one looks at it; another is made once the deck is right.
  RunLock lock;
  run_on_root(communicator, [&] {
    std::error_code ignored;
    if (fs::is_directory(folder, ignored)) lock.take(folder);
  });
  std::string checkpoint;
  const bool exists = is_run(folder);
  if (exists && options.resume.empty())
    throw InputError("run folder \"" + folder +
                     "\" holds a run already: go on with -r last, or choose another with -d");
  if (options.resume == "last") {
    if (has_checkpoint(folder))
      checkpoint = resolve_checkpoint(folder);
    else
      refuse_lost_checkpoints(folder);
  } else if (!options.resume.empty()) {
    checkpoint = resolve_checkpoint(options.resume);
  }
  if (exists && !checkpoint.empty() && !lies_in(checkpoint, folder))
    throw InputError("run folder \"" + folder + "\" holds another run than " +
                     checkpoint + ": choose another with -d");
  if (options.deck.empty() && checkpoint.empty())
    throw InputError("no deck: name one with -i");
  const Deck deck = options.deck.empty()
                        ? deck_of_checkpoint(checkpoint, options.overrides)
                        : load_language_model_deck(options.deck, options.overrides);
  std::vector<std::string> notes;
  const LanguageModelConfig config = read_language_model_deck(deck, notes);
  if (!checkpoint.empty()) {
    detail::compare_with_checkpoint(deck, checkpoint, notes);
    const std::int64_t step = read_manifest(checkpoint).step;
    if (step > config.steps)
      throw InputError("train/steps = " + std::to_string(config.steps) +
                       " lies before the checkpoint's step " + std::to_string(step));
  }
  note_schedule(config, notes);
  require_data_files(deck, checkpoint.empty() ? DataUse::training : DataUse::resuming,
                     options.deck.empty(), communicator);
  run_on_root(communicator, [&] {
    lock.take(folder);
    if (!exists && is_run(folder))
      throw InputError("run folder \"" + folder + "\" holds a run that began just now");
  });
  if (!lock.note().empty()) notes.push_back(lock.note());
  Progress progress(communicator.is_root(), config.steps);
  progress.say(start_banner(communicator));
  for (const std::string& note : notes) progress.say("note: " + note);
  if (checkpoint.empty() && options.resume == "last")
    progress.say("note: \"" + folder + "\" holds no checkpoint: starting fresh");
  communicator.barrier();
  if (config.double_precision)
    return Run<double>(options, deck, config, communicator, checkpoint).train();
  return Run<float>(options, deck, config, communicator, checkpoint).train();
}

template <class T>
LoadedModel<T> load_language_model(const std::string& run_or_step,
                                   const std::vector<std::string>& overrides,
                                   const Communicator& communicator) {
  const std::string folder = resolve_checkpoint(run_or_step);
  LoadedModel<T> loaded{deck_of_checkpoint(folder, overrides), nullptr, nullptr, 0};
  detail::refuse_other_model(loaded.deck, folder);
  std::vector<std::string> notes;
  LanguageModelConfig config = read_language_model_deck(loaded.deck, notes);
  loaded.tokenizer = tokenizer_of(read_manifest(folder));
  config.model.vocabulary = loaded.tokenizer->vocabulary();
  loaded.model = std::make_unique<LanguageModel<T>>(config, communicator, std::nullopt);
  loaded.step =
      load_checkpoint<T>(folder, loaded.model->store(), communicator, false).step;
  return loaded;
}

template LoadedModel<float> load_language_model<float>(const std::string&,
                                                       const std::vector<std::string>&,
                                                       const Communicator&);
template LoadedModel<double> load_language_model<double>(const std::string&,
                                                         const std::vector<std::string>&,
                                                         const Communicator&);

}  // namespace kokomoe
