// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "train/training_loop.hpp"

#include "io/disk.hpp"
#include "kokomoe/config.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/gemm.hpp"
#include "kokomoe/core/gemm_rate.hpp"
#include "kokomoe/parallel/agree.hpp"
#include "train/best_checkpoint.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>

namespace kokomoe::detail {

namespace {

namespace fs = std::filesystem;

/// Updates that may be left out one after the other.
constexpr std::int64_t most_skipped_in_row = 10;

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

}  // namespace

std::shared_ptr<const Tokenizer> tokenizer_of(const CheckpointMeta& meta) {
  return make_tokenizer_from(meta.texts.at("tokenizer_kind"), meta.texts.at("tokenizer"));
}

template <class T>
TrainingLoop<T>::TrainingLoop(const TrainingOptions& options, const Deck& deck, Task& task,
                              const Communicator& communicator,
                              const std::optional<SavedRun>& saved)
    : folder_(options.run_folder),
      deck_(deck),
      config_(task.config()),
      communicator_(communicator),
      failed_saves_go_on_(deck.text("checkpoint/on_failure") == "go_on"),
      watchdog_seconds_(options.watchdog_seconds),
      control_(options.run_folder, options.wall_seconds),
      progress_(communicator.is_root() && !options.quiet, config_.steps) {
  std::vector<std::string> notes;
  tokenizer_ = saved ? tokenizer_of(saved->meta) : task.make_tokenizer(communicator, notes);
  for (const std::string& note : notes) progress_.say("note: " + note);
  model_ = task.make<T>(tokenizer_, communicator, saved ? DataUse::resuming : DataUse::training);
  data_digest_ = model_->data_digest();
  say_model();
  if (saved) resume(saved->folder, options.changed_data);
  reserve_.emplace(3.0 * static_cast<double>(model_->store().parameters() * sizeof(T)),
                   model_->heldout_tokens());
  run_on_root(communicator, [&] {
    std::error_code code;
    fs::create_directories(folder_ + "/checkpoints", code);
    if (code) fail(folder_ + "/checkpoints", "cannot be made: " + code.message());
    replace_file(folder_ + "/effective.toml", deck.effective());
    write_machine();
    JsonLines::truncate_after(folder_ + "/metrics.jsonl", step_);
    JsonLines::truncate_after(folder_ + "/samples.jsonl", step_);
    metrics_ = JsonLines(folder_ + "/metrics.jsonl");
  });
  go_back();
}

/// What the run, or its last part, was computed on.
template <class T>
void TrainingLoop<T>::write_machine() const {
  std::string processor;
  std::ifstream info("/proc/cpuinfo");
  const std::string mark = "model name";
  for (std::string line; processor.empty() && std::getline(info, line);)
    if (line.starts_with(mark)) processor = line.substr(line.find(':') + 2);
  const nlohmann::json machine = {{"kokomoe", KOKOMOE_VERSION},
                                  {"space", ExecutionSpace::name()},
                                  {"threads", ExecutionSpace().concurrency()},
                                  {"ranks", communicator_.size()},
                                  {"gemm", gemm_library()},
                                  {"processor", processor}};
  replace_file(folder_ + "/machine.json", machine.dump(2) + "\n");
}

template <class T>
bool TrainingLoop<T>::train() {
  const TrainConfig& config = config_;
  measure_gemm();
  watchdog_.emplace(folder_, watchdog_seconds_, communicator_);
  if (step_ == 0 && config.steps == 0) save(false, true, RunRequest::none);
  Clock clock;
  while (step_ < config.steps) {
    clock.lap();
    watchdog_->enter(step_ + 1, "update");
    const UpdateReport& report = model_->update(step_);
    const double seconds = clock.lap();
    step_ = report.step;
    tokens_ += report.tokens;
    reserve_->step_took(seconds, static_cast<double>(report.tokens));
    write_metrics(report, seconds);
    count_skipped(report);

    const bool last = step_ == config.steps;
    const bool improved = evaluates_after(step_) && evaluate(report);
    const RunRequest request =
        control_.check(communicator_, reserve_->seconds(evaluates_after(step_ + 1)));
    const bool stops = ends_run(request);
    double saved = 0;
    if (improved || last || request != RunRequest::none ||
        (config.checkpoint_every > 0 && step_ % config.checkpoint_every == 0))
      saved = save(improved, last || stops, request);
    const double tokens_per_second = static_cast<double>(report.tokens) / seconds;
    progress_.step(report, tokens_per_second, report.flops / seconds / gemm_rate_,
                   static_cast<double>(config.steps - step_) * reserve_->step_seconds(), saved);
    if (stops && !last) {
      progress_.say("stopped at step " + std::to_string(step_) + " by " + to_string(request) +
                    "; go on with -r last");
      return false;
    }
  }
  progress_.finish();
  progress_.say("done: " + std::to_string(step_) + " steps, " +
                human_count(static_cast<double>(tokens_)) + " tokens, " +
                human_time(control_.elapsed()) +
                (skipped_ > 0 ? ", " + std::to_string(skipped_) + " updates skipped" : "") +
                "; device memory at its peak " +
                human_bytes(static_cast<double>(model_->peak_bytes())) + " a rank");
  return true;
}

template <class T>
void TrainingLoop<T>::say_model() {
  const ModelCount& count = model_->count();
  std::string line = "model: " + human_count(count.total().parameters) + " parameters, " +
                     human_count(count.total().active) + " active for a token";
  if (count.frozen > 0) line += ", " + human_count(count.frozen) + " frozen";
  const int sparse = model_->moe_layers();
  const MoeConfig& moe = model_->moe();
  line += "; " + std::to_string(model_->layers()) + " layers, " + std::to_string(sparse) +
          " with experts";
  if (sparse > 0)
    line += " (" + moe.router + ", " + std::to_string(moe.experts) +
            " experts, k = " + std::to_string(moe.k) + ")";
  progress_.say(line);
  if (sparse > 0 && model_->exchange() != nullptr)
    progress_.say("experts: in blocks over " + std::to_string(model_->layout().experts.size()) +
                  " ranks, " + std::to_string(model_->layout().replicas.size()) +
                  " such group(s); rows travel " + model_->exchange()->description());
  progress_.say("data: " + model_->data_summary());
}

/// What steps are compared with on the terminal. On all ranks at once, as they train; it goes into
/// no file, since no two runs measure the same.
template <class T>
void TrainingLoop<T>::measure_gemm() {
  gemm_rate_ = measure_gemm_rate<T>(ExecutionSpace());
  communicator_.all_reduce_sum(&gemm_rate_, 1);
}

template <class T>
void TrainingLoop<T>::resume(const std::string& checkpoint, bool changed_data) {
  const CheckpointMeta meta = load_checkpoint<T>(checkpoint, model_->store(), communicator_);
  step_ = meta.step;
  const auto counter = [&](const char* name, std::int64_t& to) {
    if (const auto found = meta.counters.find(name); found != meta.counters.end())
      to = found->second;
  };
  counter("tokens", tokens_);
  counter("skipped", skipped_);
  counter("skipped_in_row", skipped_in_row_);
  counter("best_step", best_step_);
  saved_best_step_ = best_step_;
  if (const auto found = meta.numbers.find("best_loss"); found != meta.numbers.end())
    best_loss_ = saved_best_loss_ = found->second;
  // Checkpoints of older versions do not say.
  const auto text = meta.texts.find("data_digest");
  if (text != meta.texts.end() && text->second != data_digest_) {
    const std::string what = "the training text has changed since " + checkpoint + " (digest " +
                             text->second + " then, " + data_digest_ + " now)";
    const std::vector<std::string>& keys = task_of(deck_).train_keys;
    const bool asked = std::any_of(keys.begin(), keys.end(),
                                   [&](const std::string& key) { return deck_.overridden(key); });
    if (!changed_data && !asked)
      throw InputError(what + ": bring it back, or say --changed-data to go on with it as it is");
    progress_.say("note: " + what);
  }
  progress_.say("resumed from " + checkpoint);
}

/// Makes `best` one of the past that this run has.
template <class T>
void TrainingLoop<T>::go_back() {
  bool there = true;
  run_on_root(communicator_,
              [&] { there = go_back_to_best(folder_ + "/checkpoints", step_, best_step_); });
  communicator_.broadcast(&there, sizeof there);
  if (there) return;
  if (step_ > 0)
    progress_.say("note: no checkpoint here is the best up to step " + std::to_string(step_) +
                  ": the next evaluation makes one");
  best_loss_ = saved_best_loss_ = std::numeric_limits<double>::infinity();
  best_step_ = saved_best_step_ = 0;
}

template <class T>
void TrainingLoop<T>::count_skipped(const UpdateReport& report) {
  if (report.not_finite.empty()) {
    skipped_in_row_ = 0;
    return;
  }
  ++skipped_;
  ++skipped_in_row_;
  const std::string what =
      "update " + std::to_string(report.step) + " is skipped: " + report.not_finite;
  if (skipped_in_row_ >= most_skipped_in_row)
    throw NotFinite(what + "; that makes " + std::to_string(skipped_in_row_) +
                " in a row: this run does not recover by itself");
  progress_.say("warning: " + what + "; " + std::to_string(skipped_) + " so far");
}

template <class T>
void TrainingLoop<T>::end_row() {
  try {
    metrics_.end();
  } catch (const Error& error) {
    // What fills a disk that a checkpoint does not fit on any more fits no row either.
    if (!failed_saves_go_on_) throw;
    if (lost_rows_++ == 0)
      progress_.say(std::string("warning: a row of metrics is lost: ") + error.what());
  }
}

template <class T>
void TrainingLoop<T>::write_metrics(const UpdateReport& report, double seconds) {
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
  if (!report.not_finite.empty()) metrics_.field("skipped", true);
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
  end_row();
}

template <class T>
bool TrainingLoop<T>::evaluates_after(std::int64_t step) const {
  return model_->heldout_tokens() > 0 &&
         (step == config_.steps || (config_.eval_every > 0 && step % config_.eval_every == 0));
}

/// True when this is the best loss so far.
template <class T>
bool TrainingLoop<T>::evaluate(const UpdateReport& update) {
  Clock clock;
  watchdog_->enter(step_, "evaluation");
  const Evaluation report = model_->evaluate_heldout();
  if (communicator_.is_root()) {
    metrics_.begin().field("step", step_).field("eval_loss", report.loss);
    for (const auto& [name, value] : report.figures) metrics_.field(name, value);
    column_.clear();
    for (const LoadMetrics& load : update.load) {
      double all = 0;
      for (const double count : load.counts) all += count;
      for (const double count : load.counts) column_.push_back(all > 0 ? count / all : 0);
    }
    if (!column_.empty())
      metrics_.field("expert_load", std::span<const double>(column_),
                     static_cast<std::size_t>(model_->moe().experts));
    end_row();
  }
  const bool improved = report.loss < best_loss_;
  if (improved) {
    best_loss_ = report.loss;
    best_step_ = step_;
  }
  char number[48];
  std::snprintf(number, sizeof number, "eval at step %lld: loss %.4f",
                static_cast<long long>(step_), report.loss);
  std::string line = number;
  for (const auto& [name, value] : report.figures) {
    std::string words = name;
    std::replace(words.begin(), words.end(), '_', ' ');
    std::snprintf(number, sizeof number, " %.4g", value);
    line += ", " + words + number;
  }
  if (improved) line += " (best)";
  progress_.say(line);
  if (config_.samples > 0) write_samples();
  reserve_->evaluation_took(clock.lap());
  return improved;
}

/// What is lost here is no reason to end a run.
template <class T>
void TrainingLoop<T>::write_samples() {
  const std::vector<Sample> samples = model_->samples(config_.samples, *tokenizer_);
  if (!communicator_.is_root()) return;
  std::ofstream file(folder_ + "/samples.jsonl", std::ios::app);
  for (const Sample& sample : samples) {
    nlohmann::json row = {{"step", step_}, {"text", sample.text}, {"source", sample.source}};
    if (!sample.reference.empty()) row["reference"] = sample.reference;
    file << row.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
  }
  file.flush();
  if (!file)
    progress_.say("warning: samples are lost: " + folder_ + "/samples.jsonl cannot be written");
}

/// Seconds, or 0 when the save failed and the run may go on without. `must`: it may not.
template <class T>
double TrainingLoop<T>::save(bool best, bool must, RunRequest request) {
  Clock clock;
  watchdog_->enter(step_, "save");
  CheckpointMeta meta;
  meta.step = step_;
  meta.deck = deck_.effective();
  meta.counters["tokens"] = tokens_;
  meta.counters["skipped"] = skipped_;
  meta.counters["skipped_in_row"] = skipped_in_row_;
  if (best_step_ > 0) meta.counters["best_step"] = best_step_;
  meta.numbers["best_loss"] = best_loss_;
  meta.texts["data_digest"] = data_digest_;
  meta.texts["tokenizer_kind"] = tokenizer_->name();
  meta.texts["tokenizer"] = tokenizer_->serialized();
  // Whatever comes of it: a request that stayed would stop the next run, too.
  struct Answer {
    TrainingLoop& loop;
    RunRequest request;
    ~Answer() {
      if (const std::string problem = loop.control_.answer(request); !problem.empty())
        loop.progress_.say("warning: " + problem);
    }
  } const answer{*this, request};
  try {
    save_checkpoint<T>(folder_ + "/checkpoints", model_->store(), meta, communicator_, best,
                       config_.checkpoint_keep);
  } catch (const Error& error) {
    // On every rank alike. A run that ends here has nothing to go on to.
    if (must || !failed_saves_go_on_) throw;
    progress_.say("warning: step " + std::to_string(step_) + " is not saved: " + error.what() +
                  "; going on, as checkpoint/on_failure says, until the next save");
    // The next one that is better than what lies on disk is to be kept as the best.
    best_loss_ = saved_best_loss_;
    best_step_ = saved_best_step_;
    return 0;
  }
  saved_best_loss_ = best_loss_;
  saved_best_step_ = best_step_;
  const double seconds = clock.lap();
  reserve_->save_took(seconds);
  return seconds;
}

template class TrainingLoop<float>;
template class TrainingLoop<double>;

}  // namespace kokomoe::detail
