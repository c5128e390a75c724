// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "bench_tools.hpp"
#include "command.hpp"
#include "random_corpus.hpp"
#include "step_profile.hpp"

#include "kokomoe/core/gemm.hpp"
#include "kokomoe/core/gemm_rate.hpp"
#include "kokomoe/core/placement.hpp"
#include "kokomoe/train/data_files.hpp"
#include "kokomoe/train/language_model.hpp"
#include "kokomoe/train/rehearsal.hpp"
#include "kokomoe/train/task.hpp"

#include <cstdio>
#include <memory>

namespace kokomoe::app {

namespace {

struct StepOptions {
  std::string deck, json;
  std::vector<std::string> overrides;
  int repeats = 11, warm_up = 3;
};

/// What was measured, of the slowest rank; parts are the first rank's. Rates are of each update by
/// itself: not all have as many tokens.
struct StepTimes {
  std::vector<double> gemm_rates, seconds, profiled_seconds, tokens, token_rates, operation_rates;
  std::array<std::vector<double>, step_parts> parts;

  std::array<double, step_parts> shares() const {
    std::array<double, step_parts> result{};
    double total = 0;
    for (std::size_t i = 0; i < step_parts; ++i) total += result[i] = median(parts[i]);
    for (double& share : result) share /= total;
    return result;
  }
};

template <class T>
class StepBench {
 public:
  StepBench(std::unique_ptr<Trainer<T>> trainer, const Communicator& ranks)
      : ranks_(ranks), trainer_(std::move(trainer)) {}

  StepTimes measure(int warm_up, int repeats) {
    StepTimes times;
    for (int i = 0; i < warm_up + repeats; ++i) {
      if (i == warm_up) times = StepTimes();
      times.gemm_rates.push_back(measure_gemm_rate<T>(space_));
      const double seconds = update();
      times.seconds.push_back(seconds);
      times.tokens.push_back(tokens_);
      times.token_rates.push_back(tokens_ / seconds);
      times.operation_rates.push_back(operations_ / ranks_.size() / seconds);
      const StepProfile profile;
      times.profiled_seconds.push_back(update());
      const auto part_seconds = profile.seconds();
      for (std::size_t p = 0; p < step_parts; ++p) times.parts[p].push_back(part_seconds[p]);
    }
    return times;
  }

  const Trainer<T>& trainer() const { return *trainer_; }

 private:
  double update() {
    ranks_.barrier();
    Timer timer(space_);
    const UpdateReport& report = trainer_->update(step_++);
    const auto nanoseconds = static_cast<std::int64_t>(timer.lap() * 1e9);
    tokens_ = static_cast<double>(report.tokens);
    operations_ = report.flops;
    return static_cast<double>(ranks_.all_reduce_max(nanoseconds)) * 1e-9;
  }

  const Communicator& ranks_;
  ExecutionSpace space_;
  std::unique_ptr<Trainer<T>> trainer_;
  std::int64_t step_ = 0;
  double tokens_ = 0, operations_ = 0;  ///< of the last update, over all ranks
};

/// Language models take random tokens; others their own data, whose lengths make the work.
template <class T>
std::unique_ptr<Trainer<T>> make_trainer(const Deck& deck, const Task& task,
                                         const Communicator& ranks,
                                         std::vector<std::string>& notes) {
  if (task_of(deck).name != "language_model") {
    require_data_files(deck, DataUse::training, false, ranks);
    return task.make<T>(task.make_tokenizer(ranks, notes), ranks, DataUse::training);
  }
  std::vector<std::string> same_notes;
  LanguageModelConfig config = read_language_model_deck(deck, same_notes);
  if (!config.tokenizer.model.empty())
    config.model.vocabulary = make_tokenizer(config.tokenizer, ranks)->vocabulary();
  config = with_stand_ins(std::move(config));
  const auto tokens = static_cast<std::size_t>(config.batch_tokens) * 4;
  return std::make_unique<LanguageModel<T>>(config, ranks,
                                            random_corpus(config.model.vocabulary, tokens));
}

struct StepFigures {
  Spread seconds, token_rates;
  double tokens, gflops, gemm_gflops;  ///< rates of one rank
  std::size_t saved_bytes, scratch_bytes, device_bytes;
  int random_vocabulary;  ///< what random tokens are drawn from; 0: they are the deck's own
};

void print(std::FILE* to, const StepOptions& options, const StepTimes& times,
           const StepFigures& figures) {
  if (const std::string warning = placement_warning(); !warning.empty())
    std::fprintf(to, "%s\n", warning.c_str());
  std::fprintf(to, "%s; %s, %.0f tokens an update, %s; medians of %d\n", gemm_library().c_str(),
               options.deck.c_str(), figures.tokens,
               figures.random_vocabulary > 0 ? "random ones" : "the deck's own", options.repeats);
  const Spread &seconds = figures.seconds, &rates = figures.token_rates;
  std::fprintf(to, "step       %10.2f ms, quartiles %.2f %.2f; %.2f ms while profiled\n",
               seconds.median * 1e3, seconds.low * 1e3, seconds.high * 1e3,
               median(times.profiled_seconds) * 1e3);
  std::fprintf(to, "tokens/s   %10.0f, quartiles %.0f %.0f\n", rates.median, rates.low, rates.high);
  std::fprintf(
      to,
      "GFLOP/s    %10.1f a rank, of products that the model counts; %.3f of its GEMM rate %.1f\n",
      figures.gflops, figures.gflops / figures.gemm_gflops, figures.gemm_gflops);
  std::fprintf(to, "MiB        %10.1f saved, %.1f scratch, %.1f with parameters and moments\n",
               static_cast<double>(figures.saved_bytes) / 1048576,
               static_cast<double>(figures.scratch_bytes) / 1048576,
               static_cast<double>(figures.device_bytes) / 1048576);
  const auto shares = times.shares();
  for (std::size_t i = 0; i < step_parts; ++i)
    if (!times.parts[i].empty() && shares[i] > 0)
      std::fprintf(to, "  %-14s %6.3f\n", to_string(static_cast<StepPart>(i)), shares[i]);
}

nlohmann::json to_json(const StepOptions& options, const Deck& deck, const StepTimes& times,
                       const StepFigures& figures) {
  const Spread& seconds = figures.seconds;
  nlohmann::json row = {{"deck", options.deck},
                        {"effective_deck", deck.effective()},
                        {"task", task_of(deck).name},
                        {"tokens", static_cast<std::int64_t>(figures.tokens)},
                        {"repeats", options.repeats},
                        {"step_ms", seconds.median * 1e3},
                        {"step_ms_quartiles", seconds.quartiles(1e3)},
                        {"profiled_step_ms", median(times.profiled_seconds) * 1e3},
                        {"tokens_per_second", figures.token_rates.median},
                        {"tokens_per_second_quartiles", figures.token_rates.quartiles(1)},
                        {"gflops", figures.gflops},
                        {"share_of_gemm", figures.gflops / figures.gemm_gflops},
                        {"saved_bytes", figures.saved_bytes},
                        {"scratch_bytes", figures.scratch_bytes},
                        {"device_bytes", figures.device_bytes}};
  if (figures.random_vocabulary > 0) row["vocabulary"] = figures.random_vocabulary;
  const auto shares = times.shares();
  for (std::size_t i = 0; i < step_parts; ++i)
    row["shares"][to_string(static_cast<StepPart>(i))] = shares[i];
  return row;
}

template <class T>
int bench_step(const StepOptions& options, const Deck& deck, const Task& task,
               const Communicator& ranks, std::vector<std::string>& notes) {
  StepBench<T> bench(make_trainer<T>(deck, task, ranks, notes), ranks);
  if (ranks.is_root())
    for (const std::string& note : notes) std::fprintf(stderr, "note: %s\n", note.c_str());
  const StepTimes times = bench.measure(options.warm_up, options.repeats);
  const Trainer<T>& trainer = bench.trainer();
  const auto* const language_model = dynamic_cast<const LanguageModel<T>*>(&trainer);
  const StepFigures figures{Spread(times.seconds),
                            Spread(times.token_rates),
                            median(times.tokens),
                            median(times.operation_rates) * 1e-9,
                            median(times.gemm_rates) * 1e-9,
                            trainer.saved_bytes(),
                            trainer.scratch_bytes(),
                            trainer.peak_bytes(),
                            language_model ? language_model->config().model.vocabulary : 0};
  if (!ranks.is_root()) return done;
  print(options.json == "-" ? stderr : stdout, options, times, figures);
  write_json(options.json,
             {{"results", nlohmann::json::array({to_json(options, deck, times, figures)})},
              {"machine",
               {{"gemm_gflops", figures.gemm_gflops},
                {"blas", gemm_library()},
                {"cores", ExecutionSpace().concurrency()},
                {"ranks", ranks.size()}}}});
  return done;
}

int bench_step(const StepOptions& options, const Communicator& ranks) {
  if (ranks.is_root()) require_json(options.json);
  std::vector<std::string> notes;
  // What is held out is not read.
  std::vector<std::string> overrides = options.overrides;
  for (const std::string& key : task_of(load_deck(options.deck, overrides)).heldout_keys)
    overrides.push_back(key + "=[]");
  const Deck deck = load_deck(options.deck, overrides);
  const std::unique_ptr<Task> task = task_of(deck).read(deck, notes);
  note_idle_settings(deck, notes);
  return task->config().double_precision ? bench_step<double>(options, deck, *task, ranks, notes)
                                         : bench_step<float>(options, deck, *task, ranks, notes);
}

}  // namespace

void add_bench_step(CLI::App& bench, Action& action) {
  auto options = std::make_shared<StepOptions>();
  CLI::App* command = bench.add_subcommand(
      "step",
      "a whole training step of a deck: tokens/s, the share of each part, and the GEMM rate beside "
      "it");
  command
      ->add_option("-i,--input", options->deck,
                   "deck (TOML); a language model takes random tokens, other tasks read their "
                   "data")
      ->required();
  command->add_option("--repeats", options->repeats)->check(positive_number());
  command->add_option("--warm-up", options->warm_up)->check(positive_number());
  command->add_option("--json", options->json, "write to a file, or - for standard output");
  command->add_option("overrides", options->overrides, "section/key=value ...");
  command->footer("Example: kokomoe bench step -i inputs/lm/quickstart.toml moe/experts=16");
  command->callback([options, &action] {
    action = [options](const Communicator& ranks) { return bench_step(*options, ranks); };
  });
}

}  // namespace kokomoe::app
